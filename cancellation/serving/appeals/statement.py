"""The statement of reasons that a platform owes a seller, made of the decision's record and of nothing else.

What was done, how it was decided, on which ground, which facts and evidence, how to contest: Art. 17 (3) of the Digital
Services Act (Regulation (EU) 2022/2065). As fields, for programs and translators, and as a text.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any

from cancellation.contact_data.logged_event import is_reference
from cancellation.features.vector import FEATURES
from cancellation.serving.appeals.case import OVERTURNED, UPHELD, Case
from cancellation.serving.appeals.settings import AppealSettings
from cluster.pages.formats import format_share

_PLACE = re.compile(r"(chat|fulfilment)\[(\d+)\]")
_FEATURE = re.compile(r"(\w+)=([^ ,]+) ([^,]+)")
_DAY_SECONDS = 86_400.0


def is_owed(decision: Mapping[str, Any]) -> bool:
    """Whether anything followed from a decision, so that there is something to give reasons for, and to appeal."""
    return decision["verdict"]["action"] != "none"


def statement_of_reasons(decision: Mapping[str, Any], settings: AppealSettings, case: Case | None) -> dict[str, Any]:
    """Render the statement of a decision that something followed from.

    Args:
        decision: Its record, the factors with their evidence where that is known.
        settings: The platform's own words.
        case: The appeal against it, if there is one.
    """
    words, verdict = _words(), decision["verdict"]
    given = {
        "event_id": decision["event_id"],
        "market": decision["market"],
        "decided": _date(decision["received_at"]),
        "platform": settings.platform,
        "terms": settings.terms,
        "contact": settings.contact,
        "out_of_court": settings.out_of_court[:1].upper() + settings.out_of_court[1:],
        "until": _date(decision["received_at"] + settings.window_days * _DAY_SECONDS),
        "days": f"{settings.decide_days:g}",
        "model_version": verdict["model_version"],
        "policy_version": verdict["policy_version"],
        "score": format_share(verdict["score"]),
    }
    why = [_reason(factor, decision.get("event") or {}) for factor in verdict["decision_factors"]]
    parts = {
        "what": words["what"][verdict["action"]].format(**given),
        "how": words["how"]["model" if verdict["source"] == "model" else "rules"].format(**given),
        "ground": words["ground"]["terms"].format(**given),
        "contest": _contest(case, given),
    }
    statement = {"title": words["title"].format(**given), **parts, "why": why}
    return {**statement, "automated": True, "text": _text(statement)}


def _contest(case: Case | None, given: Mapping[str, str]) -> str:
    words = _words()["contest"]
    if case is None:
        return words["open"].format(**given)
    last = case.entries[-1]
    about = {
        "appeal_id": case.appeal_id,
        "opened": _date(case.entries[0].at),
        "deadline": _date(case.deadline),
        "closed": _date(last.at),
        "reason": last.reason if last.reason.endswith((".", "!", "?", "。")) else f"{last.reason}.",
    }
    return words[last.state if last.state in (UPHELD, OVERTURNED) else "waiting"].format(**given, **about)


def _reason(factor: Mapping[str, Any], event: Mapping[str, Any]) -> dict[str, Any]:
    """One fact that the finding rests on, with its evidence in words and, of a message, its text as it was logged."""
    about = {"code": factor["code"], "fact": _words()["factors"][factor["code"]], "place": factor["evidence"]}
    place = _PLACE.fullmatch(factor["evidence"] or "")
    if place is not None:
        return {**about, **_quoted(place[1], int(place[2]), event)}
    measured = [_measure(*found.groups()) for found in _FEATURE.finditer(factor["evidence"] or "")]
    return {**about, "evidence": ". ".join(measured) or _words()["evidence"]["none"], "quote": None}


def _quoted(kind: str, number: int, event: Mapping[str, Any]) -> dict[str, Any]:
    words, items = _words()["evidence"], event.get(kind) or []
    if number >= len(items):
        return {"evidence": words["none"], "quote": None}
    item = items[number]
    text = item["text" if kind == "chat" else "note"] if kind == "chat" or item.get("note") else None
    evidence = words[kind].format(sender=item.get("sender"), kind=_plain(item.get("kind")), at=_local(item["at"]))
    if text is not None and is_reference(text):
        return {"evidence": f"{evidence} {words['withheld']}", "quote": None}
    return {"evidence": evidence, "quote": text}


def _plain(code: str | None) -> str | None:
    return code and code.replace("_", " ")


def _local(at: str) -> str:
    """An instant of the event as it stands there, where the order was placed."""
    return f"{at[:10]} {at[11:16]} ({'UTC' if at[-1] in 'Zz' else at[-6:]})"


def _measure(name: str, value: str, unit: str) -> str:
    meaning = next((feature.meaning for feature in FEATURES if feature.name == name), name.replace("_", " "))
    return f"{meaning.rstrip('.')}: {value} {unit}"


def _text(statement: Mapping[str, Any]) -> str:
    lines = [statement["title"], "", statement["what"], statement["how"], "", statement["ground"], ""]
    lines += ["What the finding rests on:"] if statement["why"] else []
    for number, reason in enumerate(statement["why"], 1):
        quote = f' "{reason["quote"]}"' if reason["quote"] else ""
        lines.append(f"{number}. {reason['fact']} ({reason['evidence']}){quote}")
    return "\n".join([*lines, *([""] if statement["why"] else []), statement["contest"]])


def _date(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%-d %B %Y, %H:%M} UTC"


@cache
def _words() -> dict[str, Any]:
    text = (resources.files("cancellation.serving.appeals") / "statement.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
