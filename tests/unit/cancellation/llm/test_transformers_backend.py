"""The local model: every answer of the form, whatever the chat says and however badly it draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from cancellation.events.event import parse_event
from cancellation.llm.answer import AnswerReader
from cancellation.llm.backend import BackendError, SamplingSettings, Usage
from cancellation.llm.backends import LocalSettings
from cancellation.llm.judging import JudgingSettings, judge
from cancellation.llm.prompt import Prompt, PromptSettings, build_prompt
from cancellation.llm.transformers_backend import TransformersBackend
from tests.builders.cancellation_events import sample_event
from tests.builders.chat_models import CHAT_TEMPLATE, save_tiny_chat_model
from tests.unit.cancellation.llm.test_prompt import FORGED


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> TransformersBackend:
    folder = save_tiny_chat_model(tmp_path_factory.mktemp("chat") / "tiny-chat")
    return TransformersBackend(LocalSettings(model=str(folder)), cache_dir=str(folder.parent / "cache"))


def _prompt(text: str = "x", settings: PromptSettings | None = None, classes: int = 3) -> Prompt:
    event = {**sample_event(), "buyer_reason": text}
    return build_prompt(parse_event(event), settings or PromptSettings(), classes=classes)


def _answer(backend: TransformersBackend, prompt: Prompt, sampling: SamplingSettings) -> tuple[AnswerReader, Usage]:
    reader, usage = AnswerReader(prompt.form), Usage()
    for piece in backend.stream(prompt, sampling, lambda: False):
        if isinstance(piece, Usage):
            usage = piece
        else:
            list(reader.feed(piece.text, piece.alternatives))
    return reader, usage


@pytest.mark.parametrize("reasoning_first", [False, True])
@pytest.mark.parametrize("text", FORGED)
def test_a_random_model_at_temperature_1_never_fails_to_parse(
    backend: TransformersBackend, text: str, reasoning_first: bool
) -> None:
    settings = PromptSettings(reasoning_first=reasoning_first)
    reader, usage = _answer(backend, _prompt(text, settings), SamplingSettings(temperature=1, max_tokens=160))
    assert reader.complete
    assert reader.answer().log_probabilities is not None
    assert usage.completion_tokens <= 160


def test_a_model_that_numbers_no_positions_answers(tmp_path: Path) -> None:
    folder = save_tiny_chat_model(tmp_path / "alibi")
    config = AutoConfig.for_model("bloom", vocab_size=1500, hidden_size=32, n_layer=2, n_head=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    backend = TransformersBackend(LocalSettings(model=str(folder)), cache_dir=str(tmp_path))
    assert judge(backend, _prompt(), JudgingSettings()).answer.verdict


def test_a_model_without_a_system_role_is_told_the_policy_in_the_first_turn(tmp_path: Path) -> None:
    folder = save_tiny_chat_model(tmp_path / "tiny-chat")
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    template = folder / "chat_template.jinja"
    template.write_text(refusing + CHAT_TEMPLATE)
    backend, prompt = TransformersBackend(LocalSettings(model=str(folder)), cache_dir=str(tmp_path)), _prompt()
    asked = AutoTokenizer.from_pretrained(folder).decode(backend.prompt_ids(prompt))
    policy, case = (turn.text for turn in prompt.turns)
    assert asked == f"<|im_start|>user\n{policy}\n\n{case}<|im_end|>\n<|im_start|>assistant\n"


def test_equal_beginnings_are_computed_once(backend: TransformersBackend) -> None:
    _answer(backend, _prompt("y" * 50), SamplingSettings())
    _, usage = _answer(backend, _prompt("z" * 50), SamplingSettings())
    assert usage.cached_tokens > 0.6 * usage.prompt_tokens


def test_the_cache_changes_nothing(backend: TransformersBackend) -> None:
    prompt, sampling = _prompt("late"), SamplingSettings(temperature=0.7, seed=5)
    _answer(backend, _prompt("another reason altogether", classes=2), SamplingSettings())
    cold, _ = _answer(backend, prompt, sampling)
    warm, usage = _answer(backend, prompt, sampling)
    assert usage.cached_tokens == usage.prompt_tokens - 1
    assert warm.text == cold.text
    assert warm.answer().log_probabilities == pytest.approx(cold.answer().log_probabilities, abs=1e-4)


def test_a_model_with_a_window_answers_the_second_event_as_the_first(tmp_path: Path) -> None:
    folder = save_tiny_chat_model(tmp_path / "windowed", sliding_window=128)
    local = LocalSettings(model=str(folder))
    one, sampling = TransformersBackend(local, cache_dir=str(tmp_path)), SamplingSettings()
    for text in ("late", "another reason altogether", "late"):
        warm, _ = _answer(one, _prompt(text), sampling)
        cold, _ = _answer(TransformersBackend(local, cache_dir=str(tmp_path)), _prompt(text), sampling)
        assert warm.text == cold.text
        assert warm.answer().log_probabilities == pytest.approx(cold.answer().log_probabilities, abs=1e-4)


def test_every_thread_is_a_core_that_is_paid(backend: TransformersBackend, tmp_path: Path) -> None:
    folder = save_tiny_chat_model(tmp_path / "tiny-chat")
    local = LocalSettings(model=str(folder), num_threads=2, hour_usd=3600)  # a dollar for each second of a core
    before = torch.get_num_threads()
    try:
        judged = judge(TransformersBackend(local, cache_dir=str(tmp_path)), _prompt(), JudgingSettings())
    finally:
        torch.set_num_threads(before)
    assert judged.seconds < judged.usage.cost_usd <= 2 * judged.seconds


def test_the_rest_can_be_cancelled_behind_the_verdict(backend: TransformersBackend) -> None:
    settings = JudgingSettings(after_verdict="cancel")
    judged = judge(backend, _prompt(), settings)
    assert judged.answer.factors == ()
    assert 0 < judged.usage.completion_tokens < 40
    assert judged.seconds_to_verdict <= judged.seconds


def test_parts_come_in_order_and_reflection_asks_twice(backend: TransformersBackend) -> None:
    parts: list[str] = []
    once = judge(backend, _prompt(), JudgingSettings(), on_part=lambda part, _: parts.append(part))
    assert parts == ["verdict", "decision_factors", "reasoning"]
    twice = judge(backend, _prompt(), JudgingSettings(reflect=True))
    assert twice.first_verdict == once.answer.verdict
    assert twice.usage.prompt_tokens > 2 * once.usage.prompt_tokens
    assert twice.usage.cached_tokens > once.usage.prompt_tokens


def test_a_prompt_beyond_the_model_is_refused_with_a_remedy(backend: TransformersBackend) -> None:
    long = {**sample_event(), "chat": [{**sample_event()["chat"][0], "text": f"{n}é" * 900} for n in range(40)]}
    prompt = build_prompt(parse_event(long), PromptSettings(max_case_characters=30_000))
    with pytest.raises(BackendError, match=r"lower prompt\.max_case_characters"):
        judge(backend, prompt, JudgingSettings())


def test_a_model_without_a_chat_template_is_refused(backend: TransformersBackend, tiny_model: Path) -> None:
    with pytest.raises(ValueError, match="expected a chat template"):
        TransformersBackend(LocalSettings(model=str(tiny_model)), cache_dir=str(tiny_model))


def test_a_checkpoint_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    folder = save_tiny_chat_model(tmp_path / "tiny-chat")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"model tiny-chat: its safetensors lack model\.layers\.1\.mlp\.down_proj"):
        TransformersBackend(LocalSettings(model=str(folder)), cache_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("own", "others"),
    [("model.layers", "model.language_model.layers"), ("base_model.model.", ""), ("layers.1", "layers.7")],
)
def test_an_adapter_whose_factors_name_no_layer_is_refused(tmp_path: Path, own: str, others: str) -> None:
    folder = save_tiny_chat_model(tmp_path / "tiny-chat")
    local = LocalSettings(model=str(folder), adapter=str(tmp_path / "adapter"))
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config).save_pretrained(tmp_path / "adapter")
    TransformersBackend(local, cache_dir=str(tmp_path))
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    renamed = {name.replace(own, others): factor for name, factor in load_file(path).items()}
    save_file(renamed, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"adapter adapter belongs to another base than tiny-chat: .* no such layer"):
        TransformersBackend(local, cache_dir=str(tmp_path))


def test_probabilities_sum_to_one_over_the_classes(backend: TransformersBackend) -> None:
    from math import exp

    def shares(classes: int) -> Sequence[float]:
        found, _ = _answer(backend, _prompt(classes=classes), SamplingSettings())
        return [exp(value) for value in found.answer().log_probabilities[:classes]]

    assert sum(shares(3)) == pytest.approx(1, abs=1e-4)
    assert sum(shares(2)) == pytest.approx(1, abs=1e-4)
