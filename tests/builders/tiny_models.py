"""Tiny causal models with a tokeniser of their own: random weights, real files."""

from __future__ import annotations

from pathlib import Path

from relevance.labels import LABEL_WORDS
from relevance.prompting.guidelines import load_guidelines
from relevance.prompting.prompts import PromptSettings, save_prompt_settings

_WORDS = (
    "rustic wooden wall clock red blue steel bottle with straw running shoes for men size ten cotton shirt large "
    "phone case charger cable usb garden hose chair cushion Product Brand Category Attributes Description Query Label"
)


def save_tiny_tokenizer(folder: Path) -> int:
    """Write a byte-level tokeniser that knows the label words; returns its vocabulary's size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(LABEL_WORDS), _WORDS, load_guidelines().full()] * 3, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    return tokenizer.get_vocab_size()


def save_tiny_model(
    folder: Path,
    *,
    family: str = "llama",
    seed: int = 0,
    weights: bool = True,
    trained_norms: bool = False,
    tied: bool = False,
) -> Path:
    """Write a random two-layer model of a family ("llama", "qwen2", "qwen3", "gpt2") with tokeniser and prompt.

    `trained_norms` draws norms and biases too, as training leaves them. With norms of exactly 1, embeddings in half
    precision lie exactly half way between two steps of 8 bits in one token of 40: which way an engine rounds is chance
    then, and moves probabilities by 0.04. Biases of 0 would hide one that an engine leaves out.
    `tied`: embeddings and output layer are one matrix.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocab_size = save_tiny_tokenizer(folder)
    save_prompt_settings(PromptSettings(guidelines="brief", product_token_budget=128, query_token_budget=96), folder)
    if not weights:
        return folder
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    if family == "gpt2":
        sizes = {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 1024}
    else:
        sizes |= {"num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 1024}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(family, vocab_size=vocab_size, **sizes, **tokens)
    config.tie_word_embeddings = tied
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.15)  # the default 0.02 gives the same answer to everything
        elif trained_norms:
            torch.nn.init.normal_(parameter, mean=0.0 if name.endswith("bias") else 1.0, std=0.15)
    model.save_pretrained(folder, safe_serialization=True)
    return folder
