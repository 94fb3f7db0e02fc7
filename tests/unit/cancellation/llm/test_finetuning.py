"""Completion fine-tuning: a tiny model must learn a few answers by heart, and say them in labelling's own prompt."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from cancellation.events.event import parse_event
from cancellation.events.examples import Example
from cancellation.llm.backends import LocalSettings
from cancellation.llm.finetuning import LlmFinetuningSettings, encode_example, finetune
from cancellation.llm.judging import JudgingSettings, judge
from cancellation.llm.prompt import PromptSettings, build_prompt
from cancellation.llm.transformers_backend import TransformersBackend
from cluster.training.train import TrainerSettings
from tests.builders.cancellation_events import sample_event
from tests.builders.chat_models import save_tiny_chat_model

PROMPT = PromptSettings(max_case_characters=400)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_chat_model(tmp_path_factory.mktemp("tune") / "tiny-chat", spread=0.2)


def _example(label: str, factors: tuple[str, ...], weight: float = 1.0) -> Example:
    event = {**sample_event(), "chat": [], "buyer_reason": label}
    return Example(parse_event(event), label, factors, weight=weight)


def _settings(base: Path, **changes: object) -> LlmFinetuningSettings:
    return LlmFinetuningSettings(**{"model": str(base), "prompt": PROMPT, **changes})


def test_the_loss_is_on_the_answer_alone(base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    one = encode_example(_example("induced", ("chat.no_reply",), 0.5), tokenizer, _settings(base))
    learnt = tokenizer.decode(one.ids[one.weights > 0])
    assert learnt.startswith("<verdict>induced</verdict>\n<decision_factors>chat.no_reply</decision_factors>")
    assert learnt.endswith("</reasoning><|im_end|>")
    assert tokenizer.decode(one.ids[one.weights == 2]) == "<verdict>induced"  # four times, and half of it
    assert tokenizer.decode(one.ids[one.weights == 0]).endswith("<|im_start|>assistant\n")


@pytest.mark.timeout(900)
def test_a_tiny_model_learns_its_answers_and_says_them(base: Path, tmp_path: Path) -> None:
    examples = [_example("induced", ("chat.out_of_stock",)), _example("not_induced", ("buyer.changed_mind",))]
    settings = _settings(
        base, epochs=30, events_per_step=2, learning_rate=1e-2, rank=8, dropout=0.0, steps_per_checkpoint=100
    )
    trainer = TrainerSettings(num_workers=0, checkpoints=str(tmp_path / "checkpoints"))
    tuned = finetune(examples, settings, trainer, None, output=tmp_path / "adapter", cache_dir=str(tmp_path))
    assert tuned.losses[-1] < 0.3 * tuned.losses[0]
    assert (tmp_path / "adapter" / "training.json").exists()
    local = LocalSettings(model=str(base), adapter=str(tmp_path / "adapter"))
    backend = TransformersBackend(local, cache_dir=str(tmp_path))
    assert "+" in backend.version
    for example in examples:
        judged = judge(backend, build_prompt(example.event, PROMPT), JudgingSettings())
        assert judged.answer.factors == example.factors or judged.answer.verdict == example.label


@pytest.mark.parametrize("micro_batch", [4, 3])
def test_a_policy_that_is_shared_teaches_what_whole_prompts_teach(base: Path, tmp_path: Path, micro_batch: int) -> None:
    labels = ("induced", "not_induced", "inconclusive", "not_induced")  # prompts of several lengths: each is its reason
    examples = [_example(label, ()) for label in labels]
    losses = []
    for size in (1, micro_batch):
        settings = _settings(base, epochs=2, events_per_step=4, micro_batch=size, learning_rate=1e-2, bf16=False)
        trainer = TrainerSettings(num_workers=0, checkpoints=str(tmp_path / str(size)))
        output = tmp_path / f"adapter-{size}"
        losses.append(finetune(examples, settings, trainer, None, output=output, cache_dir=str(tmp_path)).losses)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[0][1] != pytest.approx(losses[0][0], rel=1e-3)  # the second step saw what the first one taught


def test_examples_that_fit_nowhere_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"finetuning\.max_tokens=256: none of 1 examples fits"):
        finetune(
            [_example("induced", ())],
            _settings(base, max_tokens=256),
            TrainerSettings(num_workers=0),
            None,
            output=tmp_path,
            cache_dir=str(tmp_path),
        )
