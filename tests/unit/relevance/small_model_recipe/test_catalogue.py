"""The generated catalogue: labels follow from structure, the same seed gives the same rows."""

from __future__ import annotations

from itertools import islice

import pytest

from relevance.labels import LABELS
from relevance.small_model_recipe.catalogue import CatalogueWriter, Item, judge, load_catalogue

SHARES = {"exact": 0.4, "substitute": 0.3, "complement": 0.1, "irrelevant": 0.2}
SHOES = Item("running shoes", {"brand": "Nolo", "colour": "red"}, frozenset({"slip on"}))


@pytest.mark.parametrize(
    ("wanted", "label"),
    [
        (Item("running shoes"), "exact"),
        (Item("sneakers", {"colour": "red"}, frozenset({"slip on"})), "exact"),
        (Item("running shoes", {"colour": "blue"}), "substitute"),
        (Item("running shoes", {"size": "size 9"}), "substitute"),
        (Item("running shoes", {}, frozenset({"waterproof"})), "substitute"),
        (Item("tennis shoes", {"brand": "Nolo"}), "substitute"),
        (Item("shoe laces", {"brand": "Nolo"}), "complement"),
        (Item("blender", {"brand": "Nolo", "colour": "red"}), "irrelevant"),
    ],
)
def test_label_follows_the_decision_tree(wanted: Item, label: str) -> None:
    assert judge(wanted, SHOES, load_catalogue()) == label


def test_relations_are_symmetric() -> None:
    catalogue = load_catalogue()
    for wanted, offered in [("sofa", "couch"), ("sofa", "futon"), ("sofa", "sofa cover"), ("sofa", "blender")]:
        assert catalogue.relation(wanted, offered) == catalogue.relation(offered, wanted)


def test_every_label_is_drawn_and_true() -> None:
    writer = CatalogueWriter("labels")
    seen = set()
    for offered, query, label in islice(writer.pairs(SHARES, 5), 1000):
        assert label == judge(query.wanted, offered.item, writer.catalogue)
        assert offered.title.strip()
        assert query.text.strip()
        seen.add(label)
    assert seen == set(LABELS)


def test_same_seed_gives_the_same_pairs() -> None:
    draws = [list(islice(CatalogueWriter(7).pairs(SHARES, 3), 50)) for _ in range(2)]
    assert draws[0] == draws[1]
    assert draws[0] != list(islice(CatalogueWriter(8).pairs(SHARES, 3), 50))
