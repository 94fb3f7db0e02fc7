"""How labelled cases were drawn: it lies beside them, and without it nothing is proven on them.

    backfill.parquet               labelled events
    _backfill.parquet.sample.json  {"source": "backfill", "drawn": "random", "outcomes": ["penalty", "investigate", …]}

The underscore keeps readers of data away from it. A folder may have one `_sample.json` for all its files. A threshold
that is proven on upheld penalties alone, or on cases that somebody chose, is proven of nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from pydantic import ValidationError

from cancellation.decision.policy import Action, Basis
from cancellation.events.files import ENDINGS
from cluster.settings import Settings
from cluster.sharded.compression import plain_name
from cluster.sharded.input_files import data_files
from cluster.storage import exists, join_url, read_bytes, write_bytes

_ENDING, _IN_FOLDER = ".sample.json", "_sample.json"
_ALL: tuple[Action, ...] = get_args(Action)
_EXAMPLE = '{"source": "backfill", "drawn": "random", "outcomes": ["penalty", "investigate", "none"]}'


class LabelledSample(Settings):
    """What a labelled sample is a sample of."""

    source: Basis
    """What the cases are."""

    drawn: Literal["random", "weighted", "chosen"]
    """random: every cancellation of the period had the same chance, whatever anybody had said of it; weighted: each had
    a known chance, and its row says in `sampling_weight` how many it stands for, 1 on average; chosen: any other way,
    such as appeals, or cases that were flagged."""

    outcomes: tuple[Action, ...]
    """Actions that the drawn cancellations had, or would have had: all three, or the sample is blind on one side."""

    def refuse(self, where: str) -> None:
        """Refuse a sample that proves nothing.

        Raises:
            ValueError: Naming what is missing.
        """
        if self.drawn == "chosen":
            raise ValueError(f"{where}: a random sample of all cancellations is expected, found one that was chosen")
        if missing := [name for name in _ALL if name not in self.outcomes]:
            raise ValueError(
                f"{where}: cancellations of all outcomes are expected, those with {' and '.join(missing)} are missing; "
                "label a random sample of them too"
            )

    def check_weights(self, weights: Sequence[float], where: str) -> None:
        """Check that rows say what the sample says; `weights` are those that stand in rows.

        Raises:
            ValueError: If it is weighted and no row is, or it is not and rows are.
        """
        if self.drawn == "weighted" and not weights:
            raise ValueError(
                f"{where}: a weighted sample is expected to say sampling_weight in its rows, found none; score anew "
                "what jobs.cancellation_first_labels wrote"
            )
        if self.drawn != "weighted" and (unlike := sum(weight != 1.0 for weight in weights)):
            raise ValueError(
                f"{where}: a sample that was drawn {self.drawn} is expected, {unlike:,} rows have a sampling_weight; "
                'write "drawn": "weighted" beside it, or leave the column out if every event had the same chance'
            )


def _beside(url: str) -> str:
    folder, slash, name = url.rpartition("/")
    return f"{folder}{slash}_{name}{_ENDING}"


def write_sample(url: str, sample: LabelledSample) -> None:
    """Write down how a file's labelled events were drawn."""
    write_bytes(_beside(url), (sample.model_dump_json(indent=1) + "\n").encode())


def read_sample(url: str) -> LabelledSample:
    """Read how the labelled events of a file or folder were drawn; of several files, what holds for all of them.

    Raises:
        ValueError: If it is not written beside each of them, or not understood.
    """
    if plain_name(url).endswith(ENDINGS):
        return _read(_beside(url), url)
    if exists(join_url(url, _IN_FOLDER)):
        return _read(join_url(url, _IN_FOLDER), url)
    return together([_read(_beside(file.url), file.url) for file in data_files(url, ENDINGS)[0]])


def together(samples: Sequence[LabelledSample]) -> LabelledSample:
    """Give what holds for several samples at once: the least real source, random only if all are, shared outcomes."""
    ways = {sample.drawn for sample in samples}
    sources: tuple[Basis, ...] = get_args(Basis)
    return LabelledSample(
        source=min((sample.source for sample in samples), key=sources.index),
        drawn=next(way for way in ("chosen", "weighted", "random") if way in ways),
        outcomes=tuple(name for name in _ALL if all(name in sample.outcomes for sample in samples)),
    )


def _read(place: str, labelled: str) -> LabelledSample:
    try:
        return LabelledSample.model_validate_json(read_bytes(place))
    except FileNotFoundError:
        raise ValueError(
            f"labelled events {labelled}: expected how they were drawn in {place}, found none; "
            f"if it is so, write {_EXAMPLE}"
        ) from None
    except ValidationError as error:
        names = ", ".join(".".join(map(str, problem["loc"])) or "JSON" for problem in error.errors())
        raise ValueError(f"{place}: expected such as {_EXAMPLE}, found bad values at {names}") from None
