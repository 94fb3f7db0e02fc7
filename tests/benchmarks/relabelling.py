"""What the relabelling loop finds: wrong labels are injected into simulated events, and asked for again.

    python -m tests.benchmarks.relabelling [jobs/cancellation_relabel.toml] [--events 3000] [--tests 3000] …

Says how many of the wrong labels are among the first quarter of the labelled events in the loop's order, and what each
judge gains when people have looked at those, on tests that are right (with a 95 % interval). Lines as they come, one
JSON object as the last.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cancellation.decision.policy import load_policy
from cancellation.events.examples import Example
from cancellation.events.factors import VERDICTS
from cancellation.events.labelled import LabelledEvent
from cancellation.relabelling.gain import measure_gains
from cancellation.relabelling.judges import Workshop, doubt_labels
from cancellation.simulation.simulator import SimulationSettings, simulate
from cluster.session import SessionSettings, ray_session
from cluster.settings import load_settings
from cluster.training.train import TrainerSettings
from jobs.cancellation_relabel import RelabelJob


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=3000, help="labelled events, to teach and to doubt")
    parser.add_argument("--tests", type=int, default=3000)
    parser.add_argument("--wrong", type=float, default=0.10, help="share of labels that are wrong")
    parser.add_argument("--tired", type=float, default=0.0, help="share of second looks that are wrong")
    parser.add_argument("--split", default="test_wordings", help="of the simulator: the shipped model never saw these")
    parser.add_argument("--seed", type=int, default=31)
    arguments, settings = parser.parse_known_args()
    job = load_settings(RelabelJob, settings, defaults=Path("jobs/cancellation_relabel.toml"))
    taught, tests = (
        list(simulate(_simulation(arguments, number, noise), arguments.seed + place))
        for place, (number, noise) in enumerate(((arguments.events, arguments.wrong), (arguments.tests, 0.0)))
    )
    with tempfile.TemporaryDirectory() as folder, ray_session(SessionSettings()):
        trainer = TrainerSettings(num_workers=0, checkpoints=f"{folder}/checkpoints")
        workshop = Workshop(job.judges, trainer, Path(folder), f"{folder}/cache", load_policy(job.policy))
        print(json.dumps(_measure(taught, tests, workshop, job.ask.most_fraction, arguments)))


def _simulation(arguments: argparse.Namespace, number: int, noise: float) -> SimulationSettings:
    return SimulationSettings(num_events=number, label_noise=noise, split=arguments.split)


def _measure(
    taught: Sequence[LabelledEvent],
    tests: Sequence[LabelledEvent],
    workshop: Workshop,
    most: float,
    arguments: argparse.Namespace,
) -> dict:
    examples = [_example(one) for one in taught]
    labels = np.array([VERDICTS.index(one.label) for one in taught])
    wrong = np.array([one.label != one.true_label for one in taught])
    found: dict = {**vars(arguments), "wrong_labels": int(wrong.sum()), "found_by": {}}
    opinions = {}
    for kind in workshop.settings.kinds:
        started = time.monotonic()
        opinions[kind] = workshop.out_of_fold(kind, examples)
        found["found_by"][kind] = _found(labels, wrong, [opinions[kind]], most)
        print(f"{kind}: {found['found_by'][kind]}, {time.monotonic() - started:.0f} s", flush=True)
    found["found_by"]["together"] = _found(labels, wrong, list(opinions.values()), most)
    print(f"together: {found['found_by']['together']}", flush=True)
    asked = doubt_labels(labels, list(opinions.values())).order()[: int(len(taught) * most)]
    rng, after = np.random.default_rng(0), list(examples)
    for place in asked:
        true = VERDICTS.index(taught[place].true_label)
        said = (true + rng.integers(1, 3)) % 3 if rng.random() < arguments.tired else true
        after[place] = replace(examples[place], label=VERDICTS[said], factors=taught[place].factors)
    left = sum(one.label != event.true_label for one, event in zip(after, taught, strict=True))
    gains = measure_gains(examples, after, [_example(one) for one in tests], workshop)
    for gain in gains:
        print(
            f"{gain.kind}: accuracy {gain.before.value:.4f} -> {gain.after.value:.4f}, "
            f"{100 * gain.change.value:+.2f} points ({100 * gain.change.low:+.2f} to {100 * gain.change.high:+.2f})",
            flush=True,
        )
    return {**found, "asked": len(asked), "wrong_left": left, "gains": [gain.as_dict() for gain in gains]}


def _example(one: LabelledEvent) -> Example:
    return Example(one.event, one.label, one.factors)


def _found(labels: np.ndarray, wrong: np.ndarray, opinions: Sequence[np.ndarray], most: float) -> dict[str, float]:
    """Share of the wrong labels that are asked for, with its 95 % interval by bootstrap over the wrong ones."""
    order = doubt_labels(labels, opinions).order()
    first, quarter = order[: int(len(labels) * most)], order[: len(order) // 4]
    hits = np.isin(np.flatnonzero(wrong), first)
    draws = np.random.default_rng(0).choice(hits, (2000, len(hits))).mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return {
        "contradicted": round(len(order) / len(labels), 3),
        "found": round(float(hits.mean()), 3),
        "low": round(float(low), 3),
        "high": round(float(high), 3),
        "found_in_first_quarter_of_contradicted": round(float(wrong[quarter].sum() / wrong.sum()), 3),
    }


if __name__ == "__main__":
    main()
