"""Traces by OpenTelemetry, off by default: one span for a verdict, one below it for each of its stages.

Spans are written after the answer, from the times that are measured anyway: an answer never waits for a trace.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from cluster.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

_STAGES = ("parse", "encode", "queue", "model")
_ATTRIBUTES = ("market", "verdict", "action", "source", "model_version", "policy_version")
"""Of the verdict; ids and people's texts stay out of traces."""


class TraceSettings(Settings):
    """Where traces go."""

    endpoint: str | None = None
    """OTLP collector over HTTP, such as http://127.0.0.1:4318/v1/traces; null: no traces."""

    sampled_fraction: float = Field(default=0.01, ge=0, le=1)
    """Of the requests that do not say themselves, by a `traceparent` header, whether they are traced."""


class Traces:
    """Writes spans; does nothing without an endpoint."""

    def __init__(self, settings: TraceSettings, *, exporter: SpanExporter | None = None) -> None:
        self._settings = settings
        self._provider: Any = None
        if settings.endpoint is None and exporter is None:
            return
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        if exporter is None:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            exporter = OTLPSpanExporter(endpoint=settings.endpoint)
        self._provider = TracerProvider(resource=Resource.create({"service.name": "cancellation-verdicts"}))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(__name__)

    def verdict(self, verdict: Mapping[str, Any], timings_ms: Mapping[str, float], traceparent: str | None) -> None:
        """Write the spans of an answer that has just been made."""
        if self._provider is None:
            return
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        context = TraceContextTextMapPropagator().extract({"traceparent": traceparent} if traceparent else {})
        parent = trace.get_current_span(context).get_span_context()
        sampled = parent.trace_flags.sampled if parent.is_valid else random.random() < self._settings.sampled_fraction
        if not sampled:
            return
        end = time.time_ns()
        start = end - int(timings_ms["total"] * 1e6)
        attributes = {name: verdict[name] for name in _ATTRIBUTES if name in verdict}
        whole = self._tracer.start_span("verdict", context, start_time=start, attributes=attributes)
        inside = trace.set_span_in_context(whole, context)
        for stage in _STAGES:
            until = start + int(timings_ms.get(stage, 0.0) * 1e6)
            self._tracer.start_span(stage, inside, start_time=start).end(until)
            start = until
        whole.end(end)

    def close(self) -> None:
        """Send what is left."""
        if self._provider is not None:
            self._provider.shutdown()
