"""Completion fine-tuning: a tiny model must learn a few answers by heart, and say them in labelling's own prompt."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from cancellation.decision.policy import load_policy
from cancellation.events.event import parse_event
from cancellation.events.examples import Example
from cancellation.llm.backends import LocalSettings
from cancellation.llm.finetuning import LlmFinetuningSettings, encode_example, finetune
from cancellation.llm.judging import JudgingSettings, judge
from cancellation.llm.labelling import Labeller, LabellingSettings
from cancellation.llm.prompt import PromptSettings, build_prompt
from cancellation.llm.transformers_backend import TransformersBackend
from cluster.training.train import TrainerSettings
from tests.builders.cancellation_events import sample_event
from tests.builders.chat_models import save_tiny_chat_model

PROMPT = PromptSettings(max_case_characters=400)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_chat_model(tmp_path_factory.mktemp("tune") / "tiny-chat", spread=0.2)


def _example(label: str, factors: tuple[str, ...] | None, weight: float = 1.0, **changes: object) -> Example:
    event = {**sample_event(), "event_id": label, "chat": [], "buyer_reason": label, **changes}
    return Example(parse_event(event), label, factors, weight=weight)


def _settings(base: Path, **changes: object) -> LlmFinetuningSettings:
    return LlmFinetuningSettings(**{"model": str(base), "prompt": PROMPT, **changes})


def test_the_loss_is_on_the_answer_alone(base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    one = encode_example(_example("induced", ("chat.no_reply",), 0.5), tokenizer, _settings(base), classes=3)
    learnt = tokenizer.decode(one.ids[one.weights > 0])
    assert learnt.startswith("<verdict>induced</verdict>\n<decision_factors>chat.no_reply</decision_factors>")
    assert learnt.endswith("</reasoning><|im_end|>")
    assert tokenizer.decode(one.ids[one.weights == 2]) == "<verdict>induced"  # four times, and half of it
    assert tokenizer.decode(one.ids[one.weights == 0]).endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize(
    ("ends", "learnt"), [("<end_of_turn>\n", "<end_of_turn>"), ("\n", "<|im_end|>"), ("", "<|im_end|>")]
)
def test_an_answer_ends_as_the_template_ends_a_turn(base: Path, ends: str, learnt: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<end_of_turn>"]})
    tokenizer.chat_template = (
        "{% for one in messages %}<start>{{ one['role'] }}\n{{ one['content'] }}" + ends + "{% endfor %}"
    )
    one = encode_example(_example("induced", ()), tokenizer, _settings(base), classes=3)
    assert tokenizer.decode(one.ids[one.weights > 0]).endswith(f"</reasoning>{learnt}")


def test_an_event_counts_for_as_many_as_it_stands_for(base: Path) -> None:
    tokenizer, one = AutoTokenizer.from_pretrained(base), _example("induced", (), 0.5)
    weights = [
        encode_example(replace(one, sampling_weight=share), tokenizer, _settings(base), classes=3).weights
        for share in (None, 3.0)
    ]
    assert weights[1].tolist() == (3 * weights[0]).tolist()


def test_an_event_with_two_labels_teaches_nothing(base: Path, tmp_path: Path) -> None:
    examples = [_example(label, (), event_id="e-1") for label in ("induced", "induced", "not_induced")]
    with pytest.raises(ValueError, match=r"1 events are labelled twice and differently, such as .*; keep one of their"):
        finetune(
            examples,
            load_policy(),
            _settings(base),
            TrainerSettings(num_workers=0),
            None,
            output=tmp_path,
            cache_dir=str(tmp_path),
        )


@pytest.mark.parametrize("reasoning_first", [False, True])
def test_of_unknown_factors_only_the_verdict_is_learnt(base: Path, reasoning_first: bool) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    settings = _settings(base, prompt=PROMPT.model_copy(update={"reasoning_first": reasoning_first}))
    unknown = encode_example(_example("induced", None), tokenizer, settings, classes=3)
    assert tokenizer.decode(unknown.ids[unknown.weights > 0]) == "<verdict>induced"
    known = encode_example(_example("induced", ()), tokenizer, settings, classes=3)
    assert tokenizer.decode(known.ids[known.weights == 4]) == "<verdict>induced"
    learnt = tokenizer.decode(known.ids[known.weights > 0])
    assert learnt.startswith("<reasoning>") == reasoning_first
    assert "<decision_factors>none</decision_factors>" in learnt


def test_a_market_of_two_classes_is_taught_with_labellings_prompt(base: Path, tmp_path: Path) -> None:
    backend = TransformersBackend(LocalSettings(model=str(base)), cache_dir=str(tmp_path))
    tokenizer, labelling = AutoTokenizer.from_pretrained(base), LabellingSettings(prompt=PROMPT)
    for market, classes in (("SG", 2), ("TH", 3)):
        example = _example("induced", (), market=market)
        taught = encode_example(example, tokenizer, _settings(base), classes=classes)
        asked = backend.prompt_ids(Labeller(backend, labelling, load_policy()).prompt(example.event))
        assert taught.ids[: len(asked)].tolist() == asked


def test_examples_of_no_weight_are_no_obstacle(base: Path, tmp_path: Path) -> None:
    examples = [_example("induced", (), 0.0), _example("not_induced", ())]
    trainer = TrainerSettings(num_workers=0, checkpoints=str(tmp_path / "checkpoints"))
    settings = _settings(base, epochs=1, micro_batch=2)
    given = (examples, load_policy(), settings, trainer, None)
    assert finetune(*given, output=tmp_path / "adapter", cache_dir=str(tmp_path)).losses[0] > 0


def test_a_base_that_lacks_a_tensor_is_refused(base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base, tmp_path / "cut")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    trainer = TrainerSettings(num_workers=0, checkpoints=str(tmp_path / "checkpoints"))
    given = ([_example("induced", ())], load_policy(), _settings(folder, epochs=1), trainer, None)
    with pytest.raises(ValueError, match=r"model cut: its safetensors lack model\.layers\.1\.mlp\.down_proj"):
        finetune(*given, output=tmp_path / "adapter", cache_dir=str(tmp_path))


@pytest.mark.timeout(900)
def test_labels_that_a_market_does_not_know_are_left_out_and_counted(base: Path, tmp_path: Path) -> None:
    examples = [_example(label, (), market="SG") for label in ("inconclusive", "induced")]
    trainer = TrainerSettings(num_workers=0, checkpoints=str(tmp_path / "checkpoints"))
    given = (load_policy(), _settings(base, epochs=1), trainer, None)
    tuned = finetune(examples, *given, output=tmp_path / "adapter", cache_dir=str(tmp_path))
    assert (tuned.num_examples, tuned.num_without_class) == (1, 1)
    with pytest.raises(ValueError, match="expected labels that the policy knows in their markets"):
        finetune(examples[:1], *given, output=tmp_path / "adapter", cache_dir=str(tmp_path))


@pytest.mark.timeout(900)
def test_a_tiny_model_learns_its_answers_and_says_them(base: Path, tmp_path: Path) -> None:
    examples = [_example("induced", ("chat.out_of_stock",)), _example("not_induced", ("buyer.changed_mind",))]
    settings = _settings(
        base, epochs=30, events_per_step=2, learning_rate=1e-2, rank=8, dropout=0.0, steps_per_checkpoint=100
    )
    trainer = TrainerSettings(num_workers=0, checkpoints=str(tmp_path / "checkpoints"))
    folder = tmp_path / "adapter"
    tuned = finetune(examples, load_policy(), settings, trainer, None, output=folder, cache_dir=str(tmp_path))
    assert tuned.losses[-1] < 0.3 * tuned.losses[0]
    assert (tmp_path / "adapter" / "training.json").exists()
    local = LocalSettings(model=str(base), adapter=str(tmp_path / "adapter"))
    backend = TransformersBackend(local, cache_dir=str(tmp_path))
    assert "+" in backend.version
    for example in examples:
        judged = judge(backend, build_prompt(example.event, PROMPT), JudgingSettings())
        assert judged.answer.factors == example.factors or judged.answer.verdict == example.label


@pytest.mark.parametrize(
    ("micro_batch", "window", "family"), [(4, None, ""), (3, None, ""), (4, 128, ""), (4, None, "mpt")]
)
def test_a_policy_that_is_shared_teaches_what_whole_prompts_teach(
    base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    micro_batch: int,
    window: int | None,
    family: str,
) -> None:
    if window:
        base = save_tiny_chat_model(tmp_path / "windowed", spread=0.2, sliding_window=window)
    if family:
        config = AutoConfig.for_model(family, vocab_size=1500, d_model=32, n_layers=2, n_heads=2, max_seq_len=4096)
        base = save_tiny_chat_model(tmp_path / family)
        model = AutoModelForCausalLM.from_config(config)
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=1.0)
        model.save_pretrained(base)
    labels = ("induced", "not_induced", "inconclusive", "not_induced")
    # Prompts of very different lengths: a short one stands far behind the shared beginning.
    examples = [
        _example(label, (), event_id=f"e{n}", buyer_reason=f"{label} " * 3**n) for n, label in enumerate(labels)
    ]
    losses = []
    for size in (1, micro_batch):
        settings = _settings(
            base,
            epochs=2,
            events_per_step=4,
            micro_batch=size,
            learning_rate=1e-2,
            bf16=False,
        )
        trainer = TrainerSettings(num_workers=0, checkpoints=str(tmp_path / str(size)))
        output = tmp_path / f"adapter-{size}"
        given = (examples, load_policy(), settings, trainer, None)
        losses.append(finetune(*given, output=output, cache_dir=str(tmp_path)).losses)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[0][1] != pytest.approx(losses[0][0], rel=1e-3)  # the second step saw what the first one taught
    said = capsys.readouterr().out
    assert re.search(r"step 2 of 2: loss [\d.]+, tokens_per_second [\d.e+]+", said)


@pytest.mark.parametrize(("most", "positions"), [(256, 8192), (2048, 64)])
def test_examples_that_fit_nowhere_are_refused(base: Path, tmp_path: Path, most: int, positions: int) -> None:
    folder = shutil.copytree(base, tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": positions}))
    fits = f"none of 1 examples fits into {min(most, positions)} tokens"
    with pytest.raises(ValueError, match=rf"finetuning\.max_tokens={most}: {fits}"):
        finetune(
            [_example("induced", ())],
            load_policy(),
            _settings(folder, max_tokens=most),
            TrainerSettings(num_workers=0),
            None,
            output=tmp_path / "adapter",
            cache_dir=str(tmp_path),
        )
