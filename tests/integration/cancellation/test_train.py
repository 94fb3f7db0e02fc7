"""Training the verdict model on Ray Train: from events to an export, shared, broken off, refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cancellation.events.table import write_labelled
from cancellation.model.fusion import load_fusion_model
from cancellation.model.learnt import read_learnt, refuse_learnt
from cancellation.model.verdict_model import TRAINED_FOLDER, load_verdict_model
from cancellation.simulation.simulator import SimulationSettings, simulate
from cancellation.training.run import TrainingSettings
from cluster.storage import fetch_folder, send_folder
from cluster.training.train import TrainerSettings
from jobs.cancellation_train import TrainJob, main
from tests.builders.killed_workers import worker_killed_after
from tests.conftest import PROJECT

SMALL = {
    "name": "tiny",
    "vocab_size": 800,
    "max_tokens": 48,
    "markets": ("TH", "ID"),
    "shape": {"hidden_size": 16, "num_layers": 1, "num_heads": 1, "intermediate_size": 16},
    "fusion": {"hidden_size": 16, "num_heads": 1},
    "loop": {"steps_per_validation": 4, "batch_size": 32, "bf16": False, "learning_rate": 0.005, "patience": 50},
}


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("events") / "events.jsonl"
    write_labelled(str(path), simulate(SimulationSettings(num_events=400), 5))
    return path


def run(
    folder: Path,
    events: str | Path,
    *,
    num_workers: int = 1,
    epochs: float = 1.0,
    output: str | None = None,
    **changes: object,
) -> Path:
    settings = {**SMALL, "events": {"events": str(events)}, **changes}
    settings["loop"] = {**SMALL["loop"], "epochs": epochs}
    main(
        TrainJob(
            output=output or str(folder / "model"),
            cache_dir=str(folder / "cache"),
            training=TrainingSettings.model_validate(settings),
            trainer=TrainerSettings(num_workers=num_workers, checkpoints=str(folder / "checkpoints")),
        )
    )
    return folder / "model"


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, events: Path, local_ray: str) -> Path:
    folder = tmp_path_factory.mktemp("calm")
    run(folder, events, epochs=3.0)
    return folder


def test_events_become_a_model_that_scores(calm):
    model = load_verdict_model(calm / "model")
    event = next(simulate(SimulationSettings(num_events=1), 6)).event
    assert np.isfinite(model.score([model.encoder.encode(event)]).logits).all()
    trained, _ = load_fusion_model(calm / "model" / TRAINED_FOLDER)
    assert trained.spec == model.spec


def test_what_a_model_learnt_from_travels_with_it_into_a_bucket_too(calm, events, tmp_path, bucket):
    learnt = read_learnt(calm / "model" / TRAINED_FOLDER)
    assert len(learnt) == 400, "those that chose the weights among them"
    with pytest.raises(ValueError, match=r"400 of 400 events taught the model.*first at events.jsonl:1;"):
        refuse_learnt(str(events), calm / "model")
    write_labelled(str(tmp_path / "fresh.jsonl"), simulate(SimulationSettings(num_events=50), 6))
    refuse_learnt(str(tmp_path / "fresh.jsonl"), calm / "model")
    sent = f"{bucket}/further"  # a cluster's driver has no disk of its own that anybody keeps
    run(tmp_path, tmp_path / "fresh.jsonl", start=str(calm / "model" / TRAINED_FOLDER), output=sent)
    further = Path(fetch_folder(sent, str(tmp_path / "cache")))
    assert len(read_learnt(further / TRAINED_FOLDER)) == 450
    assert load_verdict_model(further).spec == load_verdict_model(calm / "model").spec


@pytest.mark.usefixtures("local_ray")
def test_an_event_with_two_labels_and_a_single_seller_teach_nobody(tmp_path):
    drawn = list(simulate(SimulationSettings(num_events=60), 5))
    turned = {"induced": "not_induced", "not_induced": "inconclusive", "inconclusive": "induced"}
    write_labelled(str(tmp_path / "two" / "a.jsonl"), drawn)
    write_labelled(str(tmp_path / "two" / "b.jsonl"), [replace(one, label=turned[one.label]) for one in drawn[:3]])
    with pytest.raises(ValueError, match=f"3 events have two different labels, such as {drawn[0].event.event_id}"):
        run(tmp_path, tmp_path / "two")
    one_shop = [replace(one, event=replace(one.event, seller_id="s")) for one in drawn]
    write_labelled(str(tmp_path / "one.jsonl"), one_shop)
    with pytest.raises(ValueError, match="to learn from and of others to stop by are expected, found 60 and 0"):
        run(tmp_path, tmp_path / "one.jsonl")


def test_an_exported_model_is_no_weights_to_go_on_from(bucket, events, tmp_path):
    send_folder(PROJECT / "cancellation/small_model", f"{bucket}/model")
    for name in ("start", "teacher", "encoder"):
        with pytest.raises(ValueError, match=rf"model {bucket}/model: exported, .*: name its folder trained"):
            run(tmp_path, events, **{name: f"{bucket}/model"})


def test_a_second_run_of_the_same_takes_no_step(calm, events):
    before = load_verdict_model(calm / "model").version
    checkpoints = sorted(calm.glob("checkpoints/*-run/checkpoint_*"))
    run(calm, events, epochs=3.0)
    assert sorted(calm.glob("checkpoints/*-run/checkpoint_*")) == checkpoints
    assert load_verdict_model(calm / "model").version == before


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_other_events_in_the_same_place_are_learned_from(tmp_path):
    versions = []
    for seed in (1, 2):
        write_labelled(str(tmp_path / "events.jsonl"), simulate(SimulationSettings(num_events=200), seed))
        versions.append(load_verdict_model(run(tmp_path, tmp_path / "events.jsonl", epochs=0.2)).version)
    assert versions[0] != versions[1]


@pytest.mark.slow
def test_a_killed_worker_ends_with_the_same_weights(calm, events, tmp_path):
    # The same encoded events: which pieces stay apart in them (BPE dropout) is drawn anew for each run.
    shutil.copytree(calm / "checkpoints", tmp_path / "checkpoints", ignore=shutil.ignore_patterns("*-run"))
    with worker_killed_after(1, tmp_path, "checkpoints/*-run/checkpoint_*") as killed:
        run(tmp_path, events, epochs=3.0)
    assert killed
    assert load_verdict_model(tmp_path / "model").version == load_verdict_model(calm / "model").version


@pytest.mark.slow
def test_two_workers_share_each_batch(calm, events, tmp_path):
    run(tmp_path, events, epochs=3.0, num_workers=2)
    alone, shared = (load_fusion_model(folder / "model" / TRAINED_FOLDER)[0] for folder in (calm, tmp_path))
    for one, other in zip(alone.parameters(), shared.parameters(), strict=True):
        assert one.shape == other.shape
    assert np.isfinite([float(weight.detach().abs().sum()) for weight in shared.parameters()]).all()


@pytest.mark.slow  # a second network
def test_another_network_starts_from_a_trained_models_text_encoder(calm, events, tmp_path):
    fusion = {**SMALL["fusion"], "variant": "text"}
    run(tmp_path, events, epochs=0.1, encoder=str(calm / "model" / TRAINED_FOLDER), fusion=fusion)
    assert len(read_learnt(tmp_path / "model" / TRAINED_FOLDER)) == 400
    before, after = (load_fusion_model(folder / "model" / TRAINED_FOLDER) for folder in (calm, tmp_path))
    assert after[1].to_str() == before[1].to_str()
    weights = [model.text_encoder.get_input_embeddings().weight.float() for model, _ in (before, after)]
    assert 0 < float((weights[0] - weights[1]).abs().mean().detach()) < 0.5 * float(weights[0].abs().mean().detach())


def test_what_is_written_is_the_mean_with_trainings_of_the_same_start(calm, events, tmp_path):
    start = str(calm / "model" / TRAINED_FOLDER)
    further = {"num_workers": 0, "epochs": 0.2, "start": start}
    alone, _ = load_fusion_model(run(tmp_path, events, **further) / TRAINED_FOLDER)
    steps = [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("checkpoints/*-run/**/*.pt"))]
    both, _ = load_fusion_model(run(tmp_path, events, **further, averaged_with=(start,)) / TRAINED_FOLDER)
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("checkpoints/*-run/**/*.pt"))] == steps
    begun, _ = load_fusion_model(Path(start))
    for one, other, mean in zip(begun.parameters(), alone.parameters(), both.parameters(), strict=True):
        expected = (one + other).detach().numpy() / 2
        assert np.allclose(mean.detach().numpy(), expected, atol=2e-3 * np.abs(expected).max() + 1e-6)
    shipped = str(PROJECT / "cancellation" / "small_model" / "trained")
    with pytest.raises(ValueError, match=r"averaged_with=.*small_model/trained: .* went on from the same start"):
        run(tmp_path, events, **further, averaged_with=(shipped,))


@pytest.mark.usefixtures("local_ray")
def test_a_label_outside_the_classes_is_refused_with_its_line(tmp_path, events):
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    lines[2]["label"] = "guilty"
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(
        ValueError, match=r"events\.jsonl line 3: expected label to be one of induced, .* found another"
    ):
        run(tmp_path, path)
