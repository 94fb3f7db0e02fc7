"""From a scored backfill to a model whose scores mean what they say and a policy that says why it may punish.

The backfill's labelled events are split by time and seller: the earlier part fits the temperature, the later one, of
other sellers, which has chosen nothing, shows what it left and proves the thresholds.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from cancellation.decision.calibration import (
    INDUCED,
    Calibration,
    calibrate,
    market_class_probabilities,
    split_events,
)
from cancellation.decision.induced_thresholds import InducedThreshold, find_induced_thresholds
from cancellation.decision.policy import Evidence, MarketPolicy, Policy, named_by_content
from cancellation.decision.policy_file import render_policy
from cancellation.decision.sample import LabelledSample
from cancellation.decision.thresholds import MarketThreshold, ThresholdSettings, find_thresholds
from cancellation.events.factors import VERDICTS
from cancellation.model.verdict_model import CALIBRATION_FILE
from cluster.settings import Settings
from cluster.storage import join_url, local_folder

POLICY_FILE, MODEL_FOLDER = "policy.toml", "model"
_EVALUATION_SETS = ("reviewed_cases",)
_TELLING = 30
"""Labelled cases of a market from which on a random sample has others than induced ones."""
_REMEDY = "label a random sample of all cancellations"


class CalibrationSettings(Settings):
    """How the labelled events are used."""

    fit_fraction: float = Field(default=0.25, gt=0, lt=1)
    """Share of the labelled events, the earliest, on which the temperature is fitted; later ones prove thresholds."""

    min_events: int = Field(default=1000, ge=20)
    """Refuse a backfill with fewer labelled events."""

    thresholds: ThresholdSettings = ThresholdSettings()

    @model_validator(mode="after")
    def _people_look_first(self) -> CalibrationSettings:
        lowest = self.thresholds.penalty_grid[-1]
        if self.thresholds.investigate > lowest:
            raise ValueError(f"thresholds.investigate: expected at most the lowest penalty candidate, {lowest}")
        return self


@dataclass(frozen=True)
class CalibratedModel:
    """What a backfill says of a model."""

    model_version: str
    calibration: Calibration
    thresholds: Mapping[str, MarketThreshold]
    verdicts: Mapping[str, InducedThreshold]
    """Of each market of the policy."""
    policy: Policy
    """The given one with new thresholds and their evidence."""
    unknown_markets: tuple[str, ...]
    """Markets of the backfill without an entry in the policy: they keep its default."""


def calibrate_backfill(
    rows: pa.Table, policy: Policy, settings: CalibrationSettings, *, sample: LabelledSample, day: str
) -> CalibratedModel:
    """Calibrate one model on its scored, labelled backfill.

    Args:
        rows: Of `scoring.SCORED_SCHEMA`.
        policy: State, classes and language of each market; its thresholds are replaced. It stays a demo's only while
            the cases are not real ones.
        settings: Of the split and the proof.
        sample: How the rows were drawn.
        day: ISO date that the evidence gets.

    Raises:
        ValueError: If the sample proves nothing or is not whole, there are too few labels, several models, or rows of
            an evaluation set.
    """
    labelled = _whole_sample(rows, settings)
    sample.refuse("backfill")
    _refuse_one_sided(labelled, policy)
    events = _Labelled.of(labelled, policy, sample)
    fit, judged = split_events(events.cancelled_at, events.sellers, settings.fit_fraction)
    used = fit | judged
    calibration = calibrate(
        events.logits[used], events.labels[used], events.two_classes[used], fit[used], events.weights_of(used)
    )
    proving = events.where(judged)
    probabilities = market_class_probabilities(proving.logits, calibration.temperature, two_classes=proving.two_classes)
    induced = proving.labels == INDUCED
    thresholds = _prove(proving, probabilities[:, INDUCED], induced, settings.thresholds)
    verdicts = find_induced_thresholds(
        *(probabilities, induced, proving.markets, list(policy.markets)), settings.thresholds, proving.weights
    )
    version = labelled["model_version"][0].as_py()
    common = Evidence(
        *(0, 0, 0.0, version, day),
        source=sample.source,
        sampling=sample.drawn,
        period=proving.period(),
        temperature=calibration.temperature,
    )
    entries = {
        code: _with_evidence(market, thresholds.get(code), verdicts[code], settings.thresholds, common)
        for code, market in policy.markets.items()
    }
    demo = policy.demo and sample.source != "backfill"
    new = Policy(policy.version, policy.default, entries, settings.thresholds.min_precision, demo)
    unknown = tuple(code for code in thresholds if code not in policy.markets)
    return CalibratedModel(version, calibration, thresholds, verdicts, named_by_content(new, day), unknown)


def _prove(
    proving: _Labelled, scores: np.ndarray, induced: np.ndarray, settings: ThresholdSettings
) -> dict[str, MarketThreshold]:
    _refuse_flagged_only(scores, proving.markets, settings)
    _, sellers = np.unique(proving.sellers, return_inverse=True)
    return find_thresholds(scores, induced, proving.markets, settings, sellers, proving.weights)


@dataclass(frozen=True)
class _Labelled:
    """The columns of labelled rows that a calibration needs, n of each."""

    logits: np.ndarray
    labels: np.ndarray
    two_classes: np.ndarray
    markets: list[str]
    sellers: list[str]
    cancelled_at: np.ndarray
    weights: np.ndarray | None
    """How many cancellations each stands for; None: all alike."""

    @staticmethod
    def of(labelled: pa.Table, policy: Policy, sample: LabelledSample) -> _Labelled:
        markets = labelled["market"].to_pylist()
        return _Labelled(
            np.array(labelled["logits"].to_pylist(), np.float32),
            np.array([VERDICTS.index(label) for label in labelled["label"].to_pylist()]),
            np.array([policy.market(market).classes == 2 for market in markets]),
            markets,
            labelled["seller_id"].to_pylist(),
            labelled["cancelled_at"].to_numpy(),
            _sampling_weights(labelled, sample),
        )

    def where(self, chosen: np.ndarray) -> _Labelled:
        markets, sellers = (list(compress(names, chosen)) for names in (self.markets, self.sellers))
        arrays = (self.logits[chosen], self.labels[chosen], self.two_classes[chosen])
        return _Labelled(*arrays, markets, sellers, self.cancelled_at[chosen], self.weights_of(chosen))

    def weights_of(self, chosen: np.ndarray) -> np.ndarray | None:
        """Of some of them."""
        return None if self.weights is None else self.weights[chosen]

    def period(self) -> str:
        """First and last day."""
        ends = (self.cancelled_at.min(), self.cancelled_at.max())
        return "/".join(datetime.fromtimestamp(at, UTC).date().isoformat() for at in ends)


def write_calibrated(
    calibrated: CalibratedModel, model_folder: Path | None, output_url: str, *, source: str, day: str
) -> str:
    """Write a copy of the model with its calibration.json, and the policy file, below a location; give the model's.

    Without a model's folder, as of a language model behind an endpoint, calibration.json lies beside the policy.
    """
    with local_folder(output_url) as output:
        target = output / MODEL_FOLDER if model_folder else output
        target.mkdir(parents=True, exist_ok=True)
        if model_folder:
            shutil.copytree(model_folder, target, dirs_exist_ok=True)
        (output / POLICY_FILE).write_text(render_policy(calibrated.policy), encoding="utf-8")
        record = {**_summary(calibrated.calibration), "backfill": source, "date": day}
        (target / CALIBRATION_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return join_url(output_url, MODEL_FOLDER) if model_folder else output_url


def figures(calibrated: CalibratedModel) -> dict[str, float | None]:
    """Give the numbers under the names that they have in MLflow."""
    found: dict[str, float | None] = _summary(calibrated.calibration)
    for code, threshold in calibrated.thresholds.items():
        found[f"penalty.{code}"] = threshold.proven.threshold if threshold.proven else None
        found[f"lower_bound.{code}"] = threshold.nearest.lower_bound
        found[f"flagged_cases.{code}"] = threshold.nearest.cases
        found[f"cases_missing.{code}"] = threshold.cases_missing
    for code, verdict in calibrated.verdicts.items():
        found[f"induced.{code}"] = verdict.threshold
        found[f"induced_precision.{code}"] = verdict.precision
    return found


def threshold_rows(calibrated: CalibratedModel) -> list[list[str]]:
    """One row of text per market, for people: what is proven, on what, or what is missing."""
    header = ["market", "state", "induced above", "right", "penalty", "flagged", "induced", "precision", "lower bound"]
    rows = [[*header, "cases missing", ""]]
    for code, found in calibrated.thresholds.items():
        near = found.nearest
        pool = f"pooled: {' '.join(found.pooled)}" if found.pooled else ""
        rows.append(
            [
                code,
                calibrated.policy.market(code).state,
                *_verdict_cells(calibrated.verdicts.get(code)),
                f"{found.proven.threshold:g}" if found.proven else "none",
                f"{near.cases:,}",
                f"{near.correct:,}",
                "-" if near.precision is None else f"{near.precision:.3f}",
                f"{near.lower_bound:.3f}",
                "0" if found.proven else "-" if found.cases_missing is None else f"{found.cases_missing:,}",
                "; ".join(filter(None, (pool, found.note))),
            ]
        )
    return rows


def _verdict_cells(found: InducedThreshold | None) -> tuple[str, str]:
    """From which score on a verdict says induced, and how often that is right."""
    if found is None:
        return "-", "-"
    above = "likeliest" if found.threshold is None else f"{found.threshold:g}"
    right = "nobody is accused" if found.precision is None else f"{found.precision:.3f} of {found.cases:,}"
    return above, f"{right} (all markets)" if found.pooled else right


def _whole_sample(rows: pa.Table, settings: CalibrationSettings) -> pa.Table:
    """Give the labelled rows, of a sample from which nothing is missing: what is hard to label is not like the rest.

    A row that was read, but that a language model gave no verdict, is left out: nobody is punished for it.
    """
    labelled = rows.filter(pc.and_(pc.is_valid(rows["label"]), pc.is_null(rows["error"])))
    if len(labelled) < settings.min_events:
        raise ValueError(
            f"backfill: at least {settings.min_events:,} labelled events are expected (calibration.min_events), found "
            f"{len(labelled):,}; label more past events"
        )
    unread = rows.filter(pc.and_(pc.is_valid(rows["error"]), pc.is_null(rows["event_id"])))
    if len(unread):
        first = f"{unread['place'][0].as_py()}: {unread['error'][0].as_py()}"
        raise ValueError(
            f"backfill: {len(unread):,} of {len(rows):,} rows could not be read or scored, the first {first}; correct "
            "them: without them the rest is no sample"
        )
    unlabelled = rows.filter(pc.and_(pc.is_null(rows["label"]), pc.is_null(rows["error"])))
    if len(unlabelled):
        raise ValueError(
            f"backfill: all {len(rows):,} rows are expected to be labelled, {len(unlabelled):,} are not, the first at "
            f"{unlabelled['place'][0].as_py()}; label them: a sample without the hard ones stands for nothing"
        )
    _refuse_mixed(labelled)
    _refuse_twice(labelled)
    return labelled


def _refuse_twice(labelled: pa.Table) -> None:
    """Two labels of one event would both count, whichever is right."""
    first: dict[tuple[str, str], str] = {}
    again: list[str] = []
    for market, name, place in zip(*(labelled[of].to_pylist() for of in ("market", "event_id", "place")), strict=True):
        if (market, name) in first:
            again.append(first[market, name])
        first.setdefault((market, name), place)
    if again:
        raise ValueError(
            f"backfill: {len(again):,} events are labelled twice, the first at {again[0]}; keep one of its rows"
        )


def _refuse_mixed(labelled: pa.Table) -> None:
    for name in _EVALUATION_SETS:
        if any(place.rpartition("/")[2].startswith(name) for place in labelled["place"].to_pylist()):
            raise ValueError(f"backfill: {name} is an evaluation set and must not choose a threshold; leave it out")
    versions = pc.unique(labelled["model_version"].cast(pa.string())).to_pylist()
    if len(versions) > 1:
        raise ValueError(f"backfill: verdicts of one model are expected, found {', '.join(sorted(versions))}")


def _sampling_weights(labelled: pa.Table, sample: LabelledSample) -> np.ndarray | None:
    """Of each row; one of a random sample, which may be among others, stands for one. None: all rows do."""
    given = labelled["sampling_weight"] if "sampling_weight" in labelled.column_names else pa.nulls(0, pa.float64())
    sample.check_weights(given.drop_null().to_pylist(), "backfill")
    return given.fill_null(1.0).to_numpy() if sample.drawn == "weighted" else None


def _refuse_one_sided(labelled: pa.Table, policy: Policy) -> None:
    """Refuse labels of which a class is missing: what nobody could have got wrong is not proven."""
    if labelled["seller_id"].null_count or labelled["cancelled_at"].null_count:
        raise ValueError("backfill: seller_id and cancelled_at are expected in its rows, found none; score it anew")
    by_market: dict[str, Counter[str]] = {}
    for market, label in zip(labelled["market"].to_pylist(), labelled["label"].to_pylist(), strict=True):
        by_market.setdefault(market, Counter())[label] += 1
    total = sum(by_market.values(), Counter())
    classes = max(policy.market(market).classes for market in by_market)
    for label in VERDICTS[:classes]:
        if not total[label]:
            raise ValueError(f"backfill: cases of all classes are expected, none is labelled {label}; {_REMEDY}")
    for market, counts in sorted(by_market.items()):
        if counts.total() >= _TELLING and counts["induced"] == counts.total():
            raise ValueError(f"backfill: all {counts.total():,} cases of {market} are labelled induced; {_REMEDY}")


def _refuse_flagged_only(scores: np.ndarray, markets: Sequence[str], settings: ThresholdSettings) -> None:
    codes, flagged = np.asarray(markets), scores > settings.investigate
    for market in sorted(set(markets)):
        of_market = flagged[codes == market]
        if len(of_market) >= _TELLING and of_market.all():
            raise ValueError(f"backfill: all {len(of_market):,} cases of {market} are flagged ones; {_REMEDY}")


def _with_evidence(
    market: MarketPolicy,
    found: MarketThreshold | None,
    verdicts: InducedThreshold,
    settings: ThresholdSettings,
    common: Evidence,
) -> MarketPolicy:
    market = replace(market, investigate=settings.investigate, induced=verdicts.threshold, penalty=None)
    if found is None:
        evidence = replace(common, period="", note="no labelled case of this market in the backfill")
        return replace(market, evidence=evidence)
    near = found.nearest
    evidence = replace(
        common,
        cases=near.cases,
        correct=near.correct,
        lower_bound=_rounded_down(near.lower_bound),
        sellers=near.sellers,
        pooled=found.pooled,
        cases_missing=found.cases_missing,
        events_missing=found.events_missing,
        note=found.note,
    )
    penalty = found.proven.threshold if found.proven else None
    return replace(market, penalty=penalty, evidence=evidence)


def _rounded_down(bound: float) -> float:
    return int(bound * 10_000) / 10_000


def _summary(calibration: Calibration) -> dict[str, Any]:
    return {name: value for name, value in asdict(calibration).items() if name not in ("before", "after")}
