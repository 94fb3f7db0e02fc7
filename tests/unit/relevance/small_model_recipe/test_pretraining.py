"""The small model's start and its training on generated pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from cluster.models.files import resolve_model
from cluster.models.sentence_encoder import SentenceEncoder
from relevance.labels import LABELS, label_token_ids
from relevance.prompting.prompts import PromptEncoder, PromptSettings
from relevance.small_model_recipe.catalogue import CatalogueWriter
from relevance.small_model_recipe.generated_pairs import GeneratedPairs, GenerationSettings
from relevance.small_model_recipe.matching import MatchingWriter, label_by_match, split_words
from relevance.small_model_recipe.pretraining import ModelShape, new_model
from relevance.small_model_recipe.tokenization import train_small_tokenizer
from relevance.training.examples import ProductExample
from relevance.training.packing import groups_by_length, label_loss, next_token_logits, pack_batch

TITLES = ["Nolo Red Running Shoes for Men, Size 9", "Brak Cast Iron Skillet, 10 Inch", "Wide Ruled Notebook (3 Pack)"]
SHAPE = ModelShape(hidden_size=128, num_layers=3, num_heads=4, intermediate_size=64, vocab_size=1024)


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    writer = CatalogueWriter("tests")
    texts = [*TITLES, *(writer.product().title for _ in range(300))]
    prompt = PromptSettings(guidelines="brief", product_token_budget=48, query_token_budget=24)
    return PromptEncoder(train_small_tokenizer(texts, vocab_size=SHAPE.vocab_size, prompt=prompt), prompt)


def pieces(encoder: PromptEncoder, text: str) -> list[str]:
    return encoder.tokenizer.convert_ids_to_tokens(encoder.tokenizer.encode(text, add_special_tokens=False))


def test_tokeniser_folds_what_means_the_same(encoder: PromptEncoder) -> None:
    assert pieces(encoder, "RUNNING shoes") == pieces(encoder, "running Shoe")
    assert pieces(encoder, 'Skillet 10"') == pieces(encoder, "skillet 10 inches")
    assert pieces(encoder, "Men's batteries") == pieces(encoder, "mens battery")
    assert pieces(encoder, "dress") != pieces(encoder, "dres")


def test_labels_and_headings_are_one_token_each(encoder: PromptEncoder) -> None:
    assert len(label_token_ids(encoder.tokenizer)) == 4
    assert len(encoder.encode_products(["\n\nProduct: "])[0]) == 1
    assert len(encoder.encode_queries(["\n\nQuery: "])[0]) == 2
    # White space of users is folded before, so a heading of their own is two tokens and no joint.
    assert len(pieces(encoder, "query:")) == 2


@pytest.mark.parametrize(
    ("matched", "label"),
    [([True, True], "exact"), ([False, True], "substitute"), ([True, False], "substitute"), ([False], "irrelevant")],
)
def test_matching_label_follows_from_the_words(matched: list[bool], label: str) -> None:
    assert label_by_match(matched) == label


def test_matching_queries_have_the_words_that_their_label_says() -> None:
    writer = MatchingWriter("tests", TITLES)
    for _ in range(300):
        title = writer.title()
        query, label = writer.query(title)
        own = {word[:4] for word in split_words(title)}
        if label == "irrelevant" and len(split_words(query)) == 1:
            assert split_words(query)[0][:4] not in own


def test_generated_examples_are_the_same_for_the_same_seed(encoder: PromptEncoder) -> None:
    source = GeneratedPairs(TITLES, GenerationSettings(queries_per_product=2), seed=4)
    again = GeneratedPairs(TITLES, GenerationSettings(queries_per_product=2), seed=4)
    first, second, other = source.epoch(encoder, 1), again.epoch(encoder, 1), source.epoch(encoder, 2)
    assert [(a.product, a.queries) for a in first] == [(b.product, b.queries) for b in second]
    assert [(a.product, a.queries) for a in first] != [(b.product, b.queries) for b in other]
    assert np.concatenate([example.targets for example in first]).sum(axis=1) == pytest.approx(1)


@pytest.fixture(scope="module")
def meanings(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> SentenceEncoder:
    return SentenceEncoder(resolve_model(str(tiny_model)), cache_dir=str(tmp_path_factory.mktemp("meanings")))


@pytest.mark.parametrize("meant", [False, True])
def test_start_tells_words_of_the_title_from_others(
    encoder: PromptEncoder, meanings: SentenceEncoder, meant: bool
) -> None:
    """Before any training, the number that the circuit reads is higher for a query of the title's words."""
    shape = ModelShape(num_layers=3, vocab_size=SHAPE.vocab_size)
    model = new_model(shape, encoder, meanings=meanings if meant else None)
    product = encoder.encode_products(["\n\nProduct: " + TITLES[0]])[0]
    shares = []
    for query in ("red running shoes", "wide ruled notebook"):
        ids = encoder.guidelines_ids + product + encoder.encode_queries([f"\n\nQuery: {query}"])[0]
        with torch.no_grad():
            hidden = model.model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[3]
        shares.append(float(hidden[0, -1, 8]))
    assert shares[0] > shares[1] + 0.05


def test_words_of_one_meaning_start_alike(encoder: PromptEncoder, meanings: SentenceEncoder) -> None:
    texts = {number: encoder.tokenizer.decode([number]) for number in range(len(encoder.tokenizer))}
    words = {number: text for number, text in texts.items() if text.isalpha() and len(text) > 3}
    assert len(words) > 50
    known = meanings(list(words.values()), prefix="query: ")

    def likenesses(vectors: np.ndarray) -> np.ndarray:
        centred = vectors - vectors.mean(axis=0)
        centred /= np.linalg.norm(centred, axis=1, keepdims=True)
        return (centred @ centred.T)[np.triu_indices(len(words), k=1)]

    def kept(model: PreTrainedModel) -> float:
        start = model.get_input_embeddings().weight.detach().numpy()[list(words)]
        return float(np.corrcoef(likenesses(start), likenesses(known))[0, 1])

    assert kept(new_model(SHAPE, encoder, meanings=meanings)) > 0.5
    assert abs(kept(new_model(SHAPE, encoder))) < 0.2


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize(
    ("family", "extra"),
    [
        ("llama", {}),
        ("granite", {"logits_scaling": 4.0}),
        ("cohere", {"logit_scale": 0.25}),
        ("gemma2", {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 5.0}),
    ],
)
def test_shared_guidelines_and_packed_queries_give_the_logits_of_whole_prompts(
    encoder: PromptEncoder, family: str, extra: dict[str, float], cached: bool
) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 1, "head_dim": 16, "vocab_size": len(encoder.tokenizer), "pad_token_id": 0}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes, **extra)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    texts = [("\n\nProduct: " + title, ["\n\nQuery: shoes", "\n\nQuery: iron skillet for men"]) for title in TITLES]
    examples = [
        ProductExample(encoder.encode_products([title])[0], encoder.encode_queries(queries), np.zeros((2, 4)))
        for title, queries in texts
    ]
    with torch.no_grad():
        packed = next_token_logits(model, encoder.guidelines_ids, pack_batch(examples), cached=cached)
        whole = [
            model(torch.tensor([encoder.guidelines_ids + list(example.product) + list(query)])).logits[0, -1]
            for example in examples
            for query in example.queries
        ]
    assert torch.allclose(packed, torch.stack(whole), atol=1e-3)


def test_a_tiny_model_fits_one_batch(encoder: PromptEncoder) -> None:
    model = new_model(SHAPE, encoder)
    drawn = GeneratedPairs(TITLES, GenerationSettings(queries_per_product=2, label_smoothing=0), seed=0).epoch(
        encoder, 0
    )
    batch = pack_batch(drawn[:6])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(40):
        loss = label_loss(next_token_logits(model, encoder.guidelines_ids, batch), batch.targets_n4, encoder.label_ids)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert loss.item() < 0.1


def test_groups_hold_every_pair_once_and_like_lengths_together(encoder: PromptEncoder) -> None:
    examples = GeneratedPairs(TITLES, GenerationSettings(queries_per_product=3), seed=0).epoch(encoder, 0)
    groups = groups_by_length(examples, pairs_per_group=24, shuffler=np.random.default_rng(0))
    assert sorted(id(example) for group in groups for example in group) == sorted(map(id, examples))
    sizes = sorted(sum(len(example.queries) for example in group) for group in groups)
    assert set(sizes[1:]) <= {24, 25, 26}, "all are full but the last one made"
    spans = [max(lengths) - min(lengths) for group in groups for lengths in [[len(e.product) for e in group]]]
    assert np.mean(spans) < np.ptp([len(example.product) for example in examples]) / 2


def test_a_weighed_pair_counts_as_often(encoder: PromptEncoder) -> None:
    logits = torch.randn(3, len(encoder.tokenizer))
    one_hot = torch.eye(4)[[0, 1, 1]]
    repeated = label_loss(logits[[0, 1, 2, 2]], one_hot[[0, 1, 2, 2]], encoder.label_ids)
    weighed = label_loss(logits, one_hot * torch.tensor([[1.0], [1.0], [2.0]]), encoder.label_ids)
    assert weighed.item() == pytest.approx(repeated.item())


def test_how_much_saying_a_label_at_all_counts_is_apart_from_which(encoder: PromptEncoder) -> None:
    logits, ids = torch.randn(3, len(encoder.tokenizer)), encoder.label_ids
    targets = torch.tensor([[0.9, 0.1, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    whole = -(logits.log_softmax(-1)[:, ids] * targets).sum() / targets.sum()
    among = -(logits[:, ids].log_softmax(-1) * targets).sum() / targets.sum()
    assert label_loss(logits, targets, ids).item() == pytest.approx(whole.item(), rel=1e-5)
    assert label_loss(logits, targets, ids, mass_weight=0).item() == pytest.approx(among.item(), rel=1e-5)
    half = label_loss(logits, targets, ids, mass_weight=0.5).item()
    assert half == pytest.approx((whole + among).item() / 2, rel=1e-5)


def test_start_refuses_a_shape_without_room_for_the_circuit(encoder: PromptEncoder) -> None:
    with pytest.raises(ValueError, match="needs 3 layers and 4 heads"):
        new_model(ModelShape(hidden_size=64, num_layers=2, num_heads=2, vocab_size=1024), encoder)


def test_every_label_is_generated(encoder: PromptEncoder) -> None:
    drawn = GeneratedPairs(TITLES, GenerationSettings(queries_per_product=2), seed=0).epoch(encoder, 0)
    targets = np.concatenate([example.targets for example in drawn])
    assert set(targets.argmax(axis=1)) == set(range(len(LABELS)))
