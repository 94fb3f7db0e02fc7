"""Small fusion models for tests: a tokeniser of simulated texts, a network of a few thousand weights."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from tokenizers import Tokenizer

from cancellation.events.examples import Example
from cancellation.model.fusion import FusionModel, FusionSettings, Variant
from cancellation.model.spec import ModelSpec
from cancellation.model.text_encoder import EncoderClass, EncoderShape, new_encoder
from cancellation.simulation.simulator import SimulationSettings
from cancellation.text.encoding import EventEncoder
from cancellation.text.timeline import timeline
from cancellation.text.tokenizer import train_tokenizer
from cancellation.training.data import EncodedSet, encode_examples
from cancellation.training.labelled_source import simulated_examples

MARKETS = ("TH", "ID", "BR")
MAX_TOKENS = 48


@cache
def examples() -> tuple[Example, ...]:
    return tuple(simulated_examples(SimulationSettings(), 11, range(120)))


@cache
def _tokenizer_json() -> str:
    texts = [segment.text for example in examples() for segment in timeline(example.event).segments]
    return train_tokenizer(texts, vocab_size=1200).to_str()


def small_tokenizer() -> Tokenizer:
    return Tokenizer.from_str(_tokenizer_json())


def small_encoder() -> EventEncoder:
    return EventEncoder(small_tokenizer(), max_tokens=MAX_TOKENS)


def small_model(
    variant: Variant = "attention", *, kind: EncoderClass = "modernbert", seed: int = 0, **settings: object
) -> FusionModel:
    torch.manual_seed(seed)
    tokenizer = small_tokenizer()
    shape = EncoderShape(kind=kind, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=32, dropout=0.0)
    spec = ModelSpec(name="tiny", variant=variant, encoder=kind, max_tokens=MAX_TOKENS, markets=MARKETS)
    encoder = None if variant == "features" else new_encoder(shape, tokenizer, max_tokens=MAX_TOKENS)
    fusion = FusionSettings(variant=variant, hidden_size=32, num_heads=2, dropout=0.0, **settings)
    model = FusionModel(fusion, spec, encoder)
    if variant != "text":
        model.feature_layer.fit(small_set().features)
    return model.eval()


def small_set(count: int = 120) -> EncodedSet:
    return encoded_set(examples()[:count])


def encoded_set(some: tuple[Example, ...]) -> EncodedSet:
    return EncodedSet(encode_examples(some, small_encoder()), MARKETS, pad_id=0, unknown_id=2)


def logits(model: FusionModel, data: EncodedSet, rows: np.ndarray) -> np.ndarray:
    batch = data.batch(rows)
    with torch.inference_mode():
        outputs = model(*(torch.from_numpy(part) for part in (batch.token_ids, batch.features, batch.markets)))
    return outputs.verdict_nc.numpy()
