"""A new market as a user takes it in: tiny models, every step for real, on a local Ray."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cancellation.decision.calibration_run import CalibrationSettings
from cancellation.decision.policy import load_policy
from cancellation.decision.policy_file import render_policy
from cancellation.decision.sample import LabelledSample, write_sample
from cancellation.events.table import write_labelled
from cancellation.model.verdict_model import load_verdict_model
from cancellation.new_market import NewMarketSettings
from cancellation.simulation.simulator import SimulationSettings, simulate
from cancellation.training.pretraining import PretrainingSettings
from cancellation.training.run import TrainingSettings
from cluster.training.train import TrainerSettings
from jobs.cancellation_new_market import NewMarketJob, main
from jobs.cancellation_train import TrainJob
from jobs.cancellation_train import main as train

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray"), pytest.mark.timeout(900)]
TINY = {
    "name": "tiny",
    "vocab_size": 600,
    "max_tokens": 48,
    "markets": ("ID", "TH"),
    "shape": {"hidden_size": 16, "num_layers": 1, "num_heads": 1, "intermediate_size": 16},
    "fusion": {"hidden_size": 16, "num_heads": 1},
    "events": {"num_validation": 60, "simulation": {"num_events": 200, "markets": ("ID", "TH")}},
    "loop": {"steps_per_validation": 3, "batch_size": 64, "bf16": False},
}


@pytest.fixture
def job(tmp_path: Path) -> NewMarketJob:
    """A tiny model of two markets, and what a third one brings."""
    trainer = TrainerSettings(checkpoints=str(tmp_path / "checkpoints"))
    training = TrainingSettings.model_validate(TINY)
    cache = str(tmp_path / "cache")
    train(TrainJob(output=str(tmp_path / "base"), cache_dir=cache, training=training, trainer=trainer))
    for name, markets, count, seed in (("old", ("ID", "TH"), 300, 21), ("new", ("MX",), 160, 22)):
        simulation = SimulationSettings(num_events=count, markets=markets)
        write_labelled(str(tmp_path / f"{name}.jsonl"), simulate(simulation, seed))
        sample = LabelledSample(source="simulation", drawn="random", outcomes=("penalty", "investigate", "none"))
        write_sample(str(tmp_path / f"{name}.jsonl"), sample)
    chat = {"turns": [{"role": "seller", "content": "ya no hay, cancela por favor"}]}
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for _ in range(40)))
    policy = load_policy()
    without = {code: market for code, market in policy.markets.items() if code in ("ID", "TH")}
    (tmp_path / "policy.toml").write_text(render_policy(type(policy)(policy.version, policy.default, without)))
    return NewMarketJob(
        output=str(tmp_path / "out"),
        market="MX",
        language="es",
        labelled=str(tmp_path / "new.jsonl"),
        old_labelled=str(tmp_path / "old.jsonl"),
        chats=(str(tmp_path / "chats.jsonl"),),
        model=str(tmp_path / "base"),
        policy=str(tmp_path / "policy.toml"),
        cache_dir=cache,
        check=NewMarketSettings(min_labels=100, max_worse=1.0),
        pretraining=PretrainingSettings(num_simulated=0, masking={"num_steps": 3, "batch_size": 8, "bf16": False}),
        training=training,
        calibration=CalibrationSettings(min_events=50),
        trainer=trainer,
    )


def test_a_market_is_taken_in_and_one_with_too_few_labels_is_not(
    job: NewMarketJob, capsys: pytest.CaptureFixture[str]
) -> None:
    few = job.model_copy(update={"check": NewMarketSettings(min_labels=5000)})
    with pytest.raises(ValueError, match=r"at least 5,000 labelled events of MX .* found 160: 4,840 more to label"):
        main(few)
    main(job)
    checklist = (Path(job.output) / "checklist.md").read_text()
    assert checklist.count("- [x]") == 5, checklist
    assert "old markets no worse (accuracy, points): ID " in checklist
    assert "- [x] calibrated" in capsys.readouterr().out
    model = load_verdict_model(Path(job.output) / "model")
    assert model.spec.markets == ("ID", "TH", "MX")
    assert (Path(job.output) / "model" / "calibration.json").exists()
    policy = load_policy(Path(job.output) / "policy.toml")
    assert policy.known_market("MX").state == "shadow"
    assert policy.known_market("MX").evidence is not None
    assert policy.known_market("MX").evidence.model_version == model.version
