"""A generated catalogue: products, and queries whose true label follows from structure.

A product and a query are sets of named attributes around a noun; the decision tree of the guidelines
is applied to these, never to the texts. The texts are then written from the attributes.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations, product
from pathlib import Path

WORDS_PATH = Path(__file__).with_name("catalogue_words.toml")

_ONSETS = (
    "b",
    "br",
    "c",
    "d",
    "dr",
    "f",
    "fl",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "qu",
    "r",
    "s",
    "st",
    "t",
)
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "oo", "y")
_CODAS = ("", "", "n", "r", "l", "x", "m", "nd", "ck", "sh", "tt", "v", "lo", "ra", "via", "tek", "nest")
_NUM_BRANDS = 900
_CLOSED_ATTRIBUTES = ("brand", "colour", "size", "material", "audience", "fits", "count", "model", "name")


@dataclass(frozen=True)
class Department:
    """The attribute values that products of one department can have."""

    name: str
    units: tuple[str, ...]
    materials: tuple[str, ...]
    features: tuple[str, ...]
    fits: tuple[str, ...] = ()
    people: bool = False


@dataclass(frozen=True)
class Item:
    """What a product is or a query asks for."""

    noun: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    features: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Product:
    """A product with its structure and the texts written from it."""

    product_id: str
    item: Item
    department: Department
    title: str
    host: str | None = None
    """For an accessory: the noun of the thing it is made for, named in the title."""


@dataclass(frozen=True)
class Query:
    """A query with its structure and the text written from it."""

    text: str
    wanted: Item


class Catalogue:
    """The nouns of all departments and how they relate."""

    def __init__(self, words_path: Path = WORDS_PATH) -> None:
        words = tomllib.loads(words_path.read_text("utf-8"))
        self.colours: tuple[str, ...] = tuple(words["colours"])
        self.praise: tuple[str, ...] = tuple(words["praise"])
        self.fillers: tuple[str, ...] = tuple(words["fillers"])
        self.audiences: tuple[str, ...] = tuple(words["audiences"])
        self.brands = _invent_brands(_NUM_BRANDS)
        synonym_groups = words["colour_synonyms"] + words["audience_synonyms"]
        self.value_forms: dict[str, tuple[str, ...]] = {group[0]: tuple(group) for group in synonym_groups}
        self.department_of: dict[str, Department] = {}
        self.synonyms: dict[str, tuple[str, ...]] = {}
        self._kin: set[frozenset[str]] = set()
        self._companions: dict[str, set[str]] = {}
        self._related: dict[tuple[str, str], tuple[str, ...]] = {}
        for name, section in words["departments"].items():
            self._read_department(name, section)
        self.nouns = tuple(self.department_of)
        self.things = tuple(self.synonyms)

    def _read_department(self, name: str, section: Mapping[str, object]) -> None:
        lists = {key: tuple(section.get(key, ())) for key in ("units", "materials", "features", "fits")}
        department = Department(name, people=bool(section.get("people", False)), **lists)
        for line in section["kinds"]:
            same, _, rest = line.partition(";")
            kin, _, companions = rest.partition(">") if rest else ("", "", "")
            names, others, accessories = (_split_names(part) for part in (same, kin, companions))
            for noun in (*names, *others, *accessories):
                self.department_of.setdefault(noun, department)
            for noun in names:
                self.synonyms.setdefault(noun, names)
            self._kin.update(frozenset(pair) for pair in combinations((*names, *others), 2))
            for thing, accessory in product(names, accessories):
                self._companions.setdefault(thing, set()).add(accessory)

    def relation(self, wanted: str, offered: str) -> str:
        """Tell how an offered noun relates to a wanted one: `same`, `kin`, `companion` or `other`.

        Companionship is symmetric: who asks for the case is shown the phone as a complement.
        """
        if offered in self.synonyms_of(wanted) or wanted in self.synonyms_of(offered):
            return "same"
        pairs = list(product(self.synonyms_of(wanted), self.synonyms_of(offered)))
        if any(frozenset(pair) in self._kin for pair in pairs):
            return "kin"
        if any(b in self._companions.get(a, ()) or a in self._companions.get(b, ()) for a, b in pairs):
            return "companion"
        return "other"

    def synonyms_of(self, noun: str) -> tuple[str, ...]:
        """List the names of the same thing, the noun itself among them."""
        return self.synonyms.get(noun, (noun,))

    def related(self, noun: str, relation: str) -> tuple[str, ...]:
        """List the nouns that have this relation (`kin`, `companion`) to a noun."""
        key = (noun, relation)
        if key not in self._related:
            found = (other for other in self.nouns if self.relation(noun, other) == relation)
            self._related[key] = tuple(other for other in found if other != noun)
        return self._related[key]

    def hosts_of(self, noun: str) -> tuple[str, ...]:
        """List the things that this noun is an accessory for."""
        made_for_it = self._companions.get(noun, ())
        hosts = (thing for thing, accessories in self._companions.items() if noun in accessories)
        return tuple(thing for thing in hosts if thing not in made_for_it)


@cache
def load_catalogue() -> Catalogue:
    """Read the words that ship with the project."""
    return Catalogue()


def _split_names(part: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in part.split(",") if name.strip())


def _invent_brands(number: int) -> tuple[str, ...]:
    """Invent brand names from syllables; the same list every time."""
    chooser = random.Random("brands")
    brands: dict[str, None] = {}
    while len(brands) < number:
        syllables = [chooser.choice(_ONSETS) + chooser.choice(_VOWELS) for _ in range(chooser.choice((1, 2, 2, 3)))]
        name = "".join(syllables) + chooser.choice(_CODAS)
        if len(name) > 3:
            brands[name.capitalize()] = None
    return tuple(brands)


def judge(wanted: Item, offered: Item, catalogue: Catalogue) -> str:
    """Give the label by the guidelines' decision tree.

    Another kind of thing is a substitute where it serves the same need, a complement where it is used
    together with the wanted one, irrelevant otherwise. The same kind of thing is exact when it has every
    attribute that the query names, else a substitute. What the query does not name is free.
    """
    relation = catalogue.relation(wanted.noun, offered.noun)
    if relation != "same":
        return {"kin": "substitute", "companion": "complement", "other": "irrelevant"}[relation]
    attributes_met = all(offered.attributes.get(name) == value for name, value in wanted.attributes.items())
    return "exact" if attributes_met and wanted.features <= offered.features else "substitute"


class CatalogueWriter:
    """Draw products and queries; the same seed gives the same ones."""

    def __init__(self, seed: int | str, catalogue: Catalogue | None = None) -> None:
        self.random = random.Random(seed)
        self.catalogue = catalogue or load_catalogue()
        self._num_products = 0

    def product(self) -> Product:
        """Draw a product and write its title."""
        draw = self.random
        noun = draw.choice(self.catalogue.things if draw.random() < 0.75 else self.catalogue.nouns)
        department = self.catalogue.department_of[noun]
        features = frozenset(draw.sample(department.features, min(draw.choice((0, 1, 1, 2, 2, 3, 4)), 4)))
        item = Item(noun, self._draw_attributes(department), features)
        hosts = self.catalogue.hosts_of(noun)
        host = draw.choice(hosts) if hosts and draw.random() < 0.6 else None
        self._num_products += 1
        title = self._write_title(item, host)
        return Product(f"p{self._num_products:06d}", item, department, title, host)

    def _draw_attributes(self, department: Department) -> dict[str, str]:
        draw = self.random
        attributes = {}
        if draw.random() < 0.8:
            attributes["brand"] = draw.choice(self.catalogue.brands)
        for name in ("colour", "size", "material", "audience", "fits", "count", "model", "name"):
            share = {"colour": 0.5, "size": 0.45, "material": 0.4, "audience": 0.6, "fits": 0.7, "count": 0.2}.get(
                name, 0.15
            )
            if draw.random() < share and (value := self._draw_value(name, department)) is not None:
                attributes[name] = value
        return attributes

    def _draw_value(self, name: str, department: Department) -> str | None:
        draw, catalogue = self.random, self.catalogue
        if name == "brand":
            return draw.choice(catalogue.brands)
        if name == "count":
            return draw.choice(("2", "3", "4", "6", "8", "10", "12", "20", "24", "50", "100"))
        if name == "model":
            letters = "".join(draw.choices("ABCDEGHKLMNPRSTVXZ", k=draw.choice((1, 2, 3))))
            return f"{letters}{draw.choice(('', '-', ' '))}{draw.randint(2, 9999)}"
        if name == "name":
            if department.name not in ("media", "toys", "beauty", "grocery") and draw.random() < 0.7:
                return None
            return " ".join(draw.choice(draw.choice(catalogue.nouns).split()) for _ in range(draw.choice((1, 2, 2, 3))))
        values = {
            "colour": catalogue.colours,
            "size": department.units,
            "material": department.materials,
            "audience": catalogue.audiences[:7] if department.people else (),
            "fits": department.fits,
        }[name]
        return draw.choice(values) if values else None

    def _write_title(self, item: Item, host: str | None) -> str:
        """Write brand, name and model first, the noun in the middle, sizes and counts towards the end."""
        draw, given = self.random, item.attributes
        features = sorted(item.features)
        draw.shuffle(features)
        split = draw.randint(0, len(features))
        front = [given.get("name"), given.get("model") if draw.random() < 0.5 else None, *features[:split]]
        front += [self._form(given.get(name)) for name in ("colour", "material", "audience") if draw.random() < 0.6]
        draw.shuffle(front)
        noun = draw.choice(self.catalogue.synonyms_of(item.noun)) if draw.random() < 0.3 else item.noun
        text = " ".join(part for part in (given.get("brand"), *front, noun) if part)
        if host:
            text += f" for {host}"
        if "fits" in given:
            text += draw.choice((" for {}", " compatible with {}", " fits {}")).format(given["fits"])
        tail = features[split:] + draw.sample(self.catalogue.fillers, draw.choice((0, 0, 1, 2, 3)))
        tail += [self._form(value) for name, value in given.items() if name != "count" and _lacks(text, value)]
        draw.shuffle(tail)
        if "count" in given:
            tail.append(
                draw.choice(("{} pack", "pack of {}", "set of {}", "{} count", "{} pcs")).format(given["count"])
            )
        if tail:
            text += draw.choice((", ", " - ", " | ", ", ")) + draw.choice((", ", ", ", " ")).join(tail)
        return _title_case(text)

    def _form(self, value: str | None) -> str | None:
        """Say a value in one of its forms ("men", "mens"), most often the first."""
        if value is None or self.random.random() < 0.5:
            return value
        return self.random.choice(self.catalogue.value_forms.get(value, (value,)))

    def query(self, offered: Product, label: str, *, attempts: int = 20) -> tuple[Query, str]:
        """Draw a query for a product, aiming at a label; returns it with the label that is true.

        A product without kin or companions cannot have every label: after `attempts` the label is
        what the structure says.
        """
        for _ in range(attempts):
            wanted = self._draw_wanted(offered, label)
            found = judge(wanted, offered.item, self.catalogue)
            if found == label:
                break
        return Query(self._write_query(wanted), wanted), found

    def _draw_wanted(self, offered: Product, label: str) -> Item:
        draw, catalogue = self.random, self.catalogue
        noun, item = offered.item.noun, offered.item
        if label in ("exact", "substitute"):
            noun = draw.choice(catalogue.synonyms_of(noun))
        if label == "substitute" and draw.random() < 0.35:
            noun = draw.choice(catalogue.related(noun, "kin") or (noun,))
        elif label == "complement":
            noun = draw.choice(catalogue.related(noun, "companion") or (noun,))
            if offered.host and draw.random() < 0.6:
                noun = offered.host
        elif label == "irrelevant":
            noun = draw.choice(catalogue.nouns)
        # Few wishes, as in real queries: four words in the middle.
        keep = draw.choice((0.0, 0.15, 0.3, 0.5)) * (0.3 if label == "irrelevant" else 1.0)
        attributes = {name: value for name, value in item.attributes.items() if draw.random() < keep}
        features = {feature for feature in sorted(item.features) if draw.random() < keep}
        if label == "irrelevant" or (label == "substitute" and draw.random() < 0.9):
            self._change(attributes, features, catalogue.department_of[noun])
        return Item(noun, attributes, frozenset(features))

    def _change(self, attributes: dict[str, str], features: set[str], department: Department) -> None:
        """Put one to three wishes into a query that the product need not meet."""
        for _ in range(self.random.choice((1, 1, 1, 1, 2))):
            if self.random.random() < 0.4:
                features.add(self.random.choice(department.features))
            else:
                name = self.random.choice(_CLOSED_ATTRIBUTES)
                if (value := self._draw_value(name, department)) is not None:
                    attributes[name] = value

    def _write_query(self, wanted: Item) -> str:
        draw = self.random
        front, tail = [], []
        for name, value in wanted.attributes.items():
            if name == "count":
                (front if draw.random() < 0.5 else tail).append(
                    draw.choice(("{} pack", "set of {}", "{} pcs")).format(value)
                )
            elif name in ("audience", "fits") and draw.random() < 0.6:
                tail.append(f"for {self._form(value)}")
            else:
                (tail if name == "size" and draw.random() < 0.6 else front).append(self._form(value))
        for feature in sorted(wanted.features):
            (front if draw.random() < 0.7 else tail).append(feature)
        draw.shuffle(front)
        if draw.random() < 0.05:
            front.insert(0, draw.choice(self.catalogue.praise))
        named = wanted.attributes.get("name")
        noun = [] if named and draw.random() < 0.5 else [wanted.noun]
        return misspell(" ".join([*front, *noun, *tail]).lower(), draw)

    def pairs(
        self, label_shares: Mapping[str, float], queries_per_product: int
    ) -> Iterator[tuple[Product, Query, str]]:
        """Draw pairs without end, the queries of a product behind each other."""
        labels, shares = list(label_shares), list(label_shares.values())
        while True:
            offered = self.product()
            for label in self.random.choices(labels, shares, k=queries_per_product):
                query, found = self.query(offered, label)
                yield offered, query, found


def _lacks(text: str, value: str) -> bool:
    return value.lower() not in text.lower()


def _title_case(text: str) -> str:
    small = {"for", "with", "of", "and", "the", "to", "in"}
    return " ".join(
        word if word in small or not word[:1].islower() else word[0].upper() + word[1:] for word in text.split(" ")
    )


def misspell(text: str, draw: random.Random) -> str:
    """Write as people do: a plural more or less, a slip, two words in one, now and then."""
    words = text.split()
    at = draw.randrange(len(words))
    if draw.random() < 0.15 and words[at].isalpha() and len(words[at]) > 3:
        words[at] = words[at][:-1] if words[at].endswith("s") else words[at] + "s"
    if draw.random() < 0.03 and len(words[at]) > 4:
        cut = draw.randrange(1, len(words[at]) - 2)
        words[at] = words[at][:cut] + words[at][cut + 1] + words[at][cut] + words[at][cut + 2 :]
    if draw.random() < 0.03 and len(words) > 1:
        at = draw.randrange(len(words) - 1)
        words[at : at + 2] = [words[at] + words[at + 1]]
    return " ".join(words)
