import numpy as np
import pytest

from cluster import storage
from cluster.commit import Output
from relevance.labels import LABELS
from relevance.scoring.measures import chance_drift, find_previous_day, label_drift, label_shares, measure_day


def day(*counts: int, **others: object) -> dict:
    return {"labels": dict(zip(LABELS, counts, strict=True)), **others}


def test_rates_and_cost_by_hand() -> None:
    figures = day(
        60,
        20,
        10,
        10,
        counts={"read": 120, "labelled": 90},
        seconds=60.0,
        engine_seconds=1_800.0,
        prompt_tokens=1_000,
        computed_tokens=100,
    )
    found = measure_day(figures, gpu_hour_price=4.0, gpus_per_actor=0.5)
    assert found.pairs_per_second == 2.0
    assert found.pairs_per_engine_second == 0.05
    assert found.tokens_saved == 900
    assert found.cost_usd == 1.0  # half an hour of half a GPU
    assert found.cost_per_million_pairs == 10_000.0
    assert measure_day(figures, gpu_hour_price=4.0, gpus_per_actor=0.0).cost_usd == 0.0


def test_what_an_earlier_attempt_had_done_is_not_in_the_rate_of_this_one() -> None:
    figures = day(60, 20, 10, 10, counts={"read": 120, "labelled": 90}, seconds=2.0, engine_seconds=1.0)
    spent = {**figures, "prompt_tokens": 0, "computed_tokens": 0}
    found = measure_day({**spent, "resumed_pairs": 100}, gpu_hour_price=4.0, gpus_per_actor=0.0)
    assert found.pairs_per_second == 10.0


def test_how_long_engines_waited_and_gpus_worked() -> None:
    figures = day(60, 20, 10, 10, counts={"read": 120, "labelled": 90}, seconds=2.0, engine_seconds=95.0)
    figures |= {"prompt_tokens": 0, "computed_tokens": 0}
    unknown = measure_day(figures, gpu_hour_price=4.0, gpus_per_actor=1.0)
    assert (unknown.engine_wait_fraction, unknown.gpu_busy_fraction) == (None, None)
    figures |= {"waiting_seconds": 5.0, "gpu_busy_seconds": 0.0, "gpu_seconds": 0.0}
    without_gpu = measure_day(figures, gpu_hour_price=4.0, gpus_per_actor=1.0)
    assert (without_gpu.engine_wait_fraction, without_gpu.gpu_busy_fraction) == (0.05, None)
    with_gpu = measure_day(
        figures | {"gpu_busy_seconds": 90.0, "gpu_seconds": 100.0}, gpu_hour_price=4.0, gpus_per_actor=1.0
    )
    assert with_gpu.gpu_busy_fraction == 0.9
    idle = measure_day(figures | {"engine_seconds": 0.0}, gpu_hour_price=4.0, gpus_per_actor=1.0)
    assert idle.engine_wait_fraction is None


def test_a_day_without_labels_or_time_has_zeros_not_errors() -> None:
    figures = day(0, 0, 0, 0, counts={"read": 0, "labelled": 0}, seconds=0.0, engine_seconds=0.0)
    found = measure_day({**figures, "prompt_tokens": 0, "computed_tokens": 0}, gpu_hour_price=4, gpus_per_actor=1)
    assert (found.pairs_per_second, found.pairs_per_engine_second, found.cost_per_million_pairs) == (0, 0, 0)
    assert set(label_shares(figures).values()) == {0.0}


def test_drift_is_the_share_of_rows_that_changed() -> None:
    assert label_drift(day(50, 30, 10, 10), day(100, 60, 20, 20)) == pytest.approx(0.0)
    assert label_drift(day(50, 30, 10, 10), day(40, 30, 10, 20)) == pytest.approx(0.1)
    assert label_drift(day(1, 0, 0, 0), day(0, 0, 0, 1)) == pytest.approx(1.0)


def test_chance_drift_is_what_sampling_makes() -> None:
    generator = np.random.default_rng(0)
    shares = [0.5, 0.3, 0.05, 0.15]
    drifts = [
        label_drift(day(*generator.multinomial(400, shares)), day(*generator.multinomial(2_000, shares)))
        for _ in range(400)
    ]
    expected = chance_drift(day(200, 120, 20, 60), day(1_000, 600, 100, 300))
    assert np.mean(drifts) == pytest.approx(expected, rel=0.1)
    assert chance_drift(day(0, 0, 0, 0), day(1, 0, 0, 0)) == 1.0


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path) -> str:
    return str(tmp_path / "scores") if request.param == "local" else request.getfixturevalue("bucket") + "/scores"


def commit(root: str, name: str, manifest: dict) -> None:
    assert Output(f"{root}/{name}").commit({"model": f"model of {name}", "fingerprint": "f"}, manifest)


def test_the_nearest_earlier_committed_day_is_found(root: str) -> None:
    figures = day(1, 2, 3, 4, counts={"read": 10})
    for name in ("ds=2026-11-01", "ds=2026-11-19", "ds=2026-11-22", "ds=2026-11-23", "market=de"):
        commit(root, name, {"figures": figures})
    commit(root, "ds=2026-11-20", {"files": []})
    commit(root, "ds=2026-11-21", {"figures": day(0, 0, 0, 0, counts={"read": 0})})
    storage.write_bytes(f"{root}/ds=2026-11-20a/_staging/plan.json", b"{}")
    storage.write_bytes(f"{root}/_label_store/x.parquet", b"")
    found = find_previous_day(f"{root}/ds=2026-11-22")
    assert found is not None
    assert (found.name, found.model, found.fingerprint) == ("ds=2026-11-19", "model of ds=2026-11-19", "f")
    assert found.figures == figures
    assert find_previous_day(f"{root}/ds=2026-11-01") is None
    assert find_previous_day(root) is None


def test_the_first_day_of_all_has_no_earlier_one(root: str) -> None:
    assert find_previous_day(f"{root}/ds=2026-11-22") is None
