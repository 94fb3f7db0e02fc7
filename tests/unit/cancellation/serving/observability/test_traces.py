"""Traces: off by default, of a verdict and its stages when on, in the caller's own trace."""

from __future__ import annotations

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cancellation.serving.observability.traces import Traces, TraceSettings

VERDICT = {"event_id": "SECRET", "market": "TH", "verdict": "induced", "action": "none", "source": "model"}
TIMINGS = {"parse": 0.2, "encode": 0.8, "queue": 1.0, "model": 3.0, "total": 6.0}
TRACE = "0af7651916cd43dd8448eb211c80319c"


def spans(fraction: float, traceparent: str | None) -> list:
    exporter = InMemorySpanExporter()
    traces = Traces(TraceSettings(sampled_fraction=fraction), exporter=exporter)
    traces.verdict(VERDICT, TIMINGS, traceparent)
    traces.close()
    return list(exporter.get_finished_spans())


def test_without_an_endpoint_nothing_happens() -> None:
    traces = Traces(TraceSettings())
    traces.verdict(VERDICT, TIMINGS, None)
    traces.close()


def test_a_verdict_and_its_stages_belong_to_the_callers_trace() -> None:
    found = spans(0.0, f"00-{TRACE}-b7ad6b7169203331-01")
    assert {span.name for span in found} == {"verdict", "parse", "encode", "queue", "model"}
    assert {format(span.context.trace_id, "032x") for span in found} == {TRACE}
    whole = next(span for span in found if span.name == "verdict")
    assert whole.end_time - whole.start_time == 6_000_000
    assert all(span.parent.span_id == whole.context.span_id for span in found if span is not whole)
    assert "SECRET" not in str([span.to_json() for span in found])


def test_who_does_not_want_a_trace_gets_none() -> None:
    assert spans(1.0, f"00-{TRACE}-b7ad6b7169203331-00") == []
    assert spans(0.0, None) == []
    assert len(spans(1.0, None)) == 5
    assert len(spans(1.0, "rubbish")) == 5
