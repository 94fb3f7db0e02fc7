import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cluster.launch import NotFineError
from cluster.pages.formats import format_count, format_duration, format_share
from cluster.provenance import Provenance
from cluster.tracking import TrackedRun
from relevance.scoring.checks import CheckSettings, check_day
from relevance.scoring.day import ScoredDay
from relevance.scoring.measures import PreviousDay, measure_day
from relevance.scoring.plots import draw_day
from relevance.scoring.report import ReportSettings, ScoringReport, report_files
from relevance.scoring.summary import print_summary
from tests.builders.scoring_days import FINGERPRINT, scored_day, scoring_run, shard_figures

PROVENANCE = Provenance("c0ffee", {"python": "3.11.7"}, {"cpu": "AMD EPYC", "cpu_cores": 2}, "0a1b2c")


def page_and_run(previous: PreviousDay | None = None, **shard: object) -> tuple[str, dict]:
    figures, seconds = scored_day(shard_figures(**shard))
    run = scoring_run("s3://key:secret@search/scores/ds=2026-11-22", gpus_per_actor=1.0)
    day = {**figures.as_dict(), "seconds": seconds}
    files = report_files(run, day, previous, ReportSettings(gpu_hour_price=2.0), PROVENANCE)
    assert files.keys() == {"report.html", "run.json"}
    return files["report.html"].decode(), json.loads(files["run.json"])


def previous_day() -> PreviousDay:
    figures, _ = scored_day(shard_figures(rows=900_000))
    return PreviousDay("ds=2026-11-21", "model/6:fp8", FINGERPRINT, figures.as_dict())


def test_run_json_names_everything_that_made_the_day() -> None:
    _, run = page_and_run(previous_day(), errors={"query: blank": 120}, judged=1_000)
    assert run["model"] == "relevance-llama-3.1-8b/7:fp8"
    assert run["fingerprint"] == FINGERPRINT
    assert run["prompt"] == "c2f7a1e9"
    assert run["input"] == "s3://search/pairs/ds=2026-11-22"
    assert run["output"] == "s3://***@search/scores/ds=2026-11-22"
    assert run["commit"] == "c0ffee"
    assert run["versions"] == {"python": "3.11.7"}
    assert run["hardware"]["cpu_cores"] == 2
    assert run["settings"]["scoring"]["gpus_per_actor"] == 1.0
    assert run["settings"]["report"]["gpu_hour_price"] == 2.0
    assert run["counts"]["read"] == 1_000_000
    assert run["seconds"] == 4_812.0
    assert run["measures"]["cost_usd"] == pytest.approx(run["engine_seconds"] / 3600 * 2.0)
    assert run["previous_day"] == "ds=2026-11-21"
    assert run["label_drift"] < 0.001
    assert run["fine"] is True
    assert "secret" not in json.dumps(run)


class Structure(HTMLParser):
    """Open tags, attributes that load something, and whether tags nest."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.stack: list[str] = []
        self.loading: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loading += [(name, value) for name, value in attributes if name in ("src", "href", "srcset", "data")]
        if tag not in ("meta", "br", "img", "link"):
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag


@pytest.mark.parametrize("previous", [None, previous_day()])
@pytest.mark.parametrize("judged", [0, 1_000])
def test_the_page_is_one_file_that_loads_nothing(previous: PreviousDay | None, judged: int) -> None:
    page, _ = page_and_run(previous, errors={"<script>alert(1)</script>": 3}, judged=judged)
    structure = Structure()
    structure.feed(page)
    assert structure.stack == []
    assert structure.loading == []
    assert not {"script", "img", "link", "iframe", "object"} & set(structure.tags)
    assert not re.search(r"url\(|@import|https?://", page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "secret" not in page
    assert ("Agreement with the input" in page) is bool(judged)
    assert ("ds=2026-11-21" in page) is bool(previous)


def test_the_page_begins_with_the_verdict() -> None:
    page, _ = page_and_run(label_mass=0.4)
    body = page[page.index("<body>") :]
    assert body.index("Look at this day before you use it: 1 of 4 checks failed (label mass).") < body.index("tiles")
    assert "<title>! ds=2026-11-22" in page


def test_many_reasons_are_cut_but_counted() -> None:
    page, _ = page_and_run(errors={f"reason {index:02d}": 100 - index for index in range(30)})
    assert "reason 19" in page
    assert "reason 20" not in page
    assert "10 further reasons" in page
    assert f">{sum(100 - index for index in range(20, 30)):,}<" in page


def test_shards_that_were_given_up_are_named() -> None:
    page, run = page_and_run(errors={"engine: died 3 times": 500}, poisoned=500, shard="00017")
    assert run["poisoned_shards"] == ["00017"]
    assert "<code>00017</code>" in page
    assert "Shards given up</h3>" not in page_and_run()[0]


def test_a_day_of_nothing_can_be_reported() -> None:
    page, run = page_and_run(rows=0)
    assert "Nothing to draw." in page
    assert run["fine"] is False


def test_shares_never_round_something_to_nothing_or_to_all() -> None:
    assert [format_share(share) for share in (0, 0.0001, 0.5, 0.9999, 1)] == [
        "0.0%",
        "<0.1%",
        "50.0%",
        ">99.9%",
        "100.0%",
    ]
    assert [format_duration(seconds) for seconds in (4.21, 75, 7_260)] == ["4.2 s", "1 min 15 s", "2 h 01 min"]
    assert [format_count(count) for count in (999, 12_345, 52_310_441)] == ["999", "12,345", "52.3\u00a0M"]


def test_plots_show_what_was_measured() -> None:
    figures, _ = scored_day(shard_figures(judged=1_000))
    plots = draw_day(figures.as_dict(), previous_day())
    assert plots.keys() == {"labels", "confidence", "label_mass", "confusion"}
    heights = [bar.get_height() for bar in plots["labels"].axes[0].patches]
    assert heights[:4] == pytest.approx([0.482, 0.291, 0.068, 0.159], abs=1e-3)
    assert len(heights) == 8
    assert sum(bar.get_height() for bar in plots["confidence"].axes[0].patches) == pytest.approx(1.0)
    bare = draw_day({**scored_day()[0].as_dict(), "mean_label_mass": None}, None)
    assert bare.keys() == {"labels", "confidence"}


def summary(encoding: str = "utf-8", already_done: bool = False, resumed: int = 0, **shard: object) -> str:
    figures, seconds = scored_day(shard_figures(**shard))
    figures = replace(figures, resumed_pairs=resumed)
    to = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    checks = check_day(figures.as_dict(), None, FINGERPRINT, CheckSettings())
    day = {**figures.as_dict(), "seconds": seconds}
    measures = measure_day(day, gpu_hour_price=0, gpus_per_actor=0)
    places = {"tracked_at": "make mlflow", "already_done": already_done, "to": to}
    print_summary("var/scores", day, measures=measures, checks=checks, **places)
    return to.buffer.getvalue().decode(encoding)


def test_a_run_that_went_on_from_an_earlier_one_says_what_it_did_itself() -> None:
    half = summary(resumed=600_000)
    assert "83 pairs/s in 1 h 20 min, 600,000 of 1,000,000 pairs were there from an earlier attempt" in half
    assert "nothing was left to score, 1,000,000 of 1,000,000 pairs were there" in summary(resumed=1_000_000)


def test_the_terminal_says_what_came_out_and_where_it_is() -> None:
    text = summary(judged=1_000, errors={"query: blank": 120})
    assert re.search(r"^exact {7}█{30} +48\.2% +481,9", text, re.MULTILINE)
    assert re.search(r"^complement {2}█{4} +6\.8%", text, re.MULTILINE)
    assert "1,000,000 read: 995,880 labelled, 0 reused, 4,000 repeated, 120 failed" in text
    assert "208 pairs/s in 1 h 20 min, 1,050 computed per second of an actor" in text
    assert "91.7% of prompt tokens from a shared prefix" in text
    assert "with the labels of 1,000 pairs of the input: alpha 0.592, accuracy 75.0%" in text
    assert "scores      var/scores/part-*.parquet" in text
    assert "report      var/scores/report.html" in text
    assert "MLflow      make mlflow" in text
    assert text.endswith("This day looks fine: 4 of 4 checks passed.\n")


def test_the_terminal_lists_what_is_wrong() -> None:
    assert summary(label_mass=0.4).endswith(
        "1 of 4 checks failed (label mass).\n  ! Label mass: 0.400, expected at least 0.900\n"
    )


def test_a_day_to_look_at_holds_what_comes_after_it(tmp_path: Path) -> None:
    report = ScoringReport(
        scoring_run(str(tmp_path / "ds=2026-11-22")), ReportSettings(), TrackedRun("a day", "scores", "", off=True)
    )

    def day(**shard: object) -> ScoredDay:
        figures, seconds = scored_day(shard_figures(**shard))
        return ScoredDay(str(tmp_path / "ds=2026-11-22"), {**figures.as_dict(), "seconds": seconds}, already_done=False)

    report.require_fine(day())
    with pytest.raises(NotFineError, match=r"committed, but it does not look fine \(Label mass: 0\.200, expected"):
        report.require_fine(day(label_mass=0.2))


def test_a_terminal_without_blocks_gets_hashes() -> None:
    assert "exact       ##############################" in summary(encoding="ascii")


def test_a_day_that_was_done_before_says_so_first() -> None:
    assert summary(already_done=True).lstrip().startswith("already done: ")


def test_rows_that_are_no_label_are_the_first_line() -> None:
    first = "12 rows have no label because their probabilities are not finite"
    assert summary(not_finite=12).lstrip().startswith(f"! {first}")
    page, _ = page_and_run(not_finite=12)
    assert page[page.index("<body>") :].index(first) < page[page.index("<body>") :].index("tiles")


def test_agreement_on_one_label_alone_is_undefined_and_valid_json() -> None:
    shard = shard_figures()
    shard["confusion"][0][0] = 40
    figures, _ = scored_day(shard)
    assert figures.as_dict()["agreement"]["alpha"] is None
    json.dumps(figures.as_dict(), allow_nan=False)
    day = {**figures.as_dict(), "seconds": 1.0}
    assert draw_day(day, None)["confusion"]


def test_how_long_engines_waited_is_in_the_report_and_on_the_terminal() -> None:
    page, run = page_and_run()
    assert run["measures"]["engine_wait_fraction"] == pytest.approx(0.03 / 1.03)
    assert run["measures"]["gpu_busy_fraction"] == pytest.approx(0.94 / 1.03)
    assert "2.9%</b><span>of their time engines waited for shards; GPUs busy 91.3% of it" in page
    figures, seconds = scored_day()
    day = {**figures.as_dict(), "seconds": seconds}
    out = io.StringIO()
    measures = measure_day(day, gpu_hour_price=2.0, gpus_per_actor=1.0)
    print_summary("scores", day, measures=measures, checks=[], tracked_at="mlflow", already_done=False, to=out)
    assert "waited 2.9% of their time for shards; their GPUs were busy 91.3% of it" in out.getvalue()
