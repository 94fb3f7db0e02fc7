"""Tiny causal models that take a chat: random weights, real files, a tokeniser that knows the policy's words."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_tiny_chat_model(
    folder: Path, *, seed: int = 0, spread: float = 0.02, sliding_window: int | None = None
) -> Path:
    """Write a random two-layer Llama whose tokeniser is byte-level BPE, trained on what the model is told.

    `spread` is the weights' standard deviation. An adapter leaves embeddings as they are, and with small ones no
    logit can stand out. With a `sliding_window`, in tokens, it is a Mistral.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    told = (resources.files("cancellation.llm") / "instructions.toml").read_text(encoding="utf-8")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=["<pad>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([told] * 3, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<|im_end|>")
    wrapped.chat_template = CHAT_TEMPLATE
    wrapped.save_pretrained(folder)
    torch.manual_seed(seed)
    window = {"sliding_window": sliding_window} if sliding_window else {}
    config = (MistralConfig if sliding_window else LlamaConfig)(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=8192,
        pad_token_id=0,
        eos_token_id=2,
        tie_word_embeddings=True,
        initializer_range=spread,
        **window,
    )
    (MistralForCausalLM if sliding_window else LlamaForCausalLM)(config).save_pretrained(folder)
    return folder
