from pathlib import Path

import pytest

from relevance.engines.label_model import open_label_model
from relevance.scoring.run import ScoringRun, ScoringSettings, open_run, output_url


@pytest.fixture
def run(tiny_model: Path, tmp_path: Path) -> ScoringRun:
    model = open_label_model(str(tiny_model), None, quantization="none", cache_dir=str(tmp_path))
    return open_run("pairs/ds=2026-11-22", str(tmp_path / "scores"), model, ScoringSettings())


def test_a_days_partition_keeps_its_name(run: ScoringRun) -> None:
    assert output_url("s3://b/pairs/ds=2026-11-22/", "s3://b/scores") == "s3://b/scores/ds=2026-11-22"
    assert output_url("s3://b/pairs.csv", "s3://b/scores/") == "s3://b/scores"
    assert run.output.url.endswith("scores/ds=2026-11-22")
    assert run.store.url.endswith("scores/_label_store")
    assert run.input == f"{Path.cwd()}/pairs/ds=2026-11-22"


def test_the_identity_follows_model_prompt_and_quantisation(run: ScoringRun, tiny_model: Path, tmp_path: Path) -> None:
    model = open_label_model(str(tiny_model), None, quantization="int8", cache_dir=str(tmp_path))
    assert open_run("p", "s", model, ScoringSettings()).fingerprint != run.fingerprint
    settings = ScoringSettings(shard_rows=7, max_actors=9)
    assert open_run("p", "s", run.model, settings).fingerprint == run.fingerprint
