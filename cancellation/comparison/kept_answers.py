"""Answers of a language model that are asked for once, however often and for whatever a table is made.

A ledger (`cluster/endpoint/ledger.py`) holds them, in a folder named by who answers and how, each under a name of its
question: a prompt holds event, examples, policy and classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from cancellation.events.event import Event
from cancellation.llm.backends import BackendSettings, LocalModel, backend_identity
from cancellation.llm.judging import JudgingSettings
from cancellation.llm.labelling import Labeller, Outage, ask_once
from cluster import storage
from cluster.endpoint.ledger import RequestLedger
from cluster.progress import watched
from cluster.provenance import digest_of

_OF_THE_ANSWER = {"local": {"dtype", "device"}, "endpoint": {"structured", "top_logprobs"}}
"""Of a backend's settings those that change what is answered; pace, prices and budget do not."""


def answerer(backend: BackendSettings, model: LocalModel | None) -> dict[str, Any]:
    """Say what a backend's answers depend on besides the question; `model` as pinned by `pin_backend`."""
    chosen = backend.local if backend.kind == "local" else backend.endpoint
    return {**backend_identity(backend, model), **chosen.model_dump(mode="json", include=_OF_THE_ANSWER[backend.kind])}


def paid_before(answers: str) -> float:
    """Add up what the requests in a folder of ledgers cost, in USD, answered or not."""
    folders = {file.url.rpartition("/")[0] for file in storage.list_files(answers)}
    return sum(RequestLedger(folder).spent_usd for folder in sorted(folders))


class KeptAnswers:
    """What one model answered, asked in one way."""

    def __init__(
        self, answers: str, who: Mapping[str, Any], judging: JudgingSettings, *, ask_again: bool, parallel: int
    ) -> None:
        """Read what is there.

        Args:
            answers: Folder of all ledgers of an output.
            who: What answers depend on besides the question, as JSON: other answerers are asked anew.
            judging: How it is asked. `tries` and `ask_again` are no part of it: an answer stays the same.
            ask_again: Ask once more about what was on its way when a process died.
            parallel: Requests at once.
        """
        name = digest_of([dict(who), judging.model_dump(mode="json")])
        self._ledger = RequestLedger(storage.join_url(answers, name), ask_again=ask_again)
        self._parallel, self._outage = parallel, Outage()

    def ask(self, asked: Mapping[str, tuple[Event, Labeller]]) -> dict[str, dict[str, Any]]:
        """Ask for what is not kept; by key the columns of `label_rows`, or `error` and what it took.

        Raises:
            BudgetSpentError: If the budget holds no further request.
            OutageError: If the server gives no answers any more.
        """
        with ThreadPoolExecutor(self._parallel) as pool:
            tasks = {
                pool.submit(ask_once, event, key, labeller, self._ledger, self._outage): key
                for key, (event, labeller) in asked.items()
            }
            try:
                for task in watched(as_completed(tasks), len(tasks), "answers"):
                    task.result()
                return {key: task.result() for task, key in tasks.items()}
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise


def question_key(labeller: Labeller, event: Event) -> str:
    """Name a question by all that the model is shown."""
    prompt = labeller.prompt(event)
    return digest_of([prompt.messages, prompt.form.regex])
