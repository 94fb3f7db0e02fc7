"""The small model's start and its training on generated pairs."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from relevance.catalogue import CatalogueWriter
from relevance.labels import LABELS, label_token_ids
from relevance.matching import MatchingWriter, label_by_match, split_words
from relevance.packing import ProductExample, label_loss, next_token_logits, pack_batch
from relevance.pretraining import ModelShape, PretrainingSettings, generated_examples, new_model, pretrain
from relevance.prompts import PromptEncoder, PromptSettings
from relevance.tokenization import train_small_tokenizer

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
    settings = PretrainingSettings(queries_per_product=2, seed=4)
    first, second = (next(generated_examples(encoder, TITLES, settings)) for _ in range(2))
    assert [(a.product, a.queries) for a in first] == [(b.product, b.queries) for b in second]
    assert np.concatenate([example.targets for example in first]).sum(axis=1) == pytest.approx(1)


def test_start_tells_words_of_the_title_from_others(encoder: PromptEncoder) -> None:
    """Before any training, the number that the circuit reads is higher for a query of the title's words."""
    model = new_model(ModelShape(num_layers=3, vocab_size=SHAPE.vocab_size), encoder)
    product = encoder.encode_products(["\n\nProduct: " + TITLES[0]])[0]
    shares = []
    for query in ("red running shoes", "wide ruled notebook"):
        ids = encoder.guidelines_ids + product + encoder.encode_queries([f"\n\nQuery: {query}"])[0]
        with torch.no_grad():
            hidden = model.model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[3]
        shares.append(float(hidden[0, -1, 8]))
    assert shares[0] > shares[1] + 0.05


def test_shared_guidelines_and_packed_queries_give_the_logits_of_whole_prompts(encoder: PromptEncoder) -> None:
    model = new_model(SHAPE, encoder)
    texts = [("\n\nProduct: " + title, ["\n\nQuery: shoes", "\n\nQuery: iron skillet for men"]) for title in TITLES]
    examples = [
        ProductExample(encoder.encode_products([title])[0], encoder.encode_queries(queries), np.zeros((2, 4)))
        for title, queries in texts
    ]
    with torch.no_grad():
        packed = next_token_logits(model, encoder.guidelines_ids, pack_batch(examples))
        whole = [
            model(torch.tensor([encoder.guidelines_ids + list(example.product) + list(query)])).logits[0, -1]
            for example in examples
            for query in example.queries
        ]
    assert torch.allclose(packed, torch.stack(whole), atol=1e-3)


def test_a_tiny_model_fits_one_batch(encoder: PromptEncoder) -> None:
    model = new_model(SHAPE, encoder)
    drawn = next(generated_examples(encoder, TITLES, PretrainingSettings(queries_per_product=2, label_smoothing=0)))
    batch = pack_batch(drawn[:6])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(40):
        loss = label_loss(next_token_logits(model, encoder.guidelines_ids, batch), batch.targets_n4, encoder.label_ids)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert loss.item() < 0.1


def test_training_reports_progress_and_learns(encoder: PromptEncoder) -> None:
    seen = []
    settings = PretrainingSettings(num_pairs=16 * 30, pairs_per_step=16, queries_per_product=4, bf16=False)
    model = new_model(SHAPE, encoder)
    pretrain(model, encoder, TITLES, settings, on_progress=lambda pairs, loss: seen.append((pairs, loss)))
    assert 16 * 24 <= seen[0][0] <= 16 * 27
    assert seen[0][1] < 2.5


def test_start_refuses_a_shape_without_room_for_the_circuit(encoder: PromptEncoder) -> None:
    with pytest.raises(ValueError, match="needs 3 layers and 4 heads"):
        new_model(ModelShape(hidden_size=64, num_layers=2, num_heads=2, vocab_size=1024), encoder)


def test_every_label_is_generated(encoder: PromptEncoder) -> None:
    pools = islice(generated_examples(encoder, TITLES, PretrainingSettings(queries_per_product=2)), 1)
    targets = np.concatenate([example.targets for pool in pools for example in pool])
    assert set(targets.argmax(axis=1)) == set(range(len(LABELS)))
