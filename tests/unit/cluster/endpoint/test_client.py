"""Requests to a server that misbehaves: what costs nothing is tried again, what may have been paid is said."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from email.utils import formatdate
from typing import Any

import pytest

from cluster.endpoint.client import NOTHING, ChatEndpoint, Consumption, EndpointError, Sent
from cluster.endpoint.purse import BudgetSpentError, Purse
from cluster.endpoint.settings import EndpointSettings
from tests.servers.chat_endpoint import ANSWER, ChatServer

PRICES = {"input_usd": 1.0, "cached_input_usd": 0.5, "output_usd": 10.0}
PAID = (100 * 1.0 + 400 * 0.5 + len(ANSWER) * 10.0) / 1e6
MESSAGES = [{"role": "user", "content": "case-1"}]


@pytest.fixture
def server() -> Iterator[ChatServer]:
    server = ChatServer()
    yield server
    server.stop()


def _endpoint(server: ChatServer, *, purse: Purse | None = None, **settings: object) -> ChatEndpoint:
    chosen = {"backoff_seconds": 0.01, "timeout_seconds": 20.0, **PRICES, **settings}
    return ChatEndpoint(EndpointSettings(base_url=server.url, **chosen), purse or Purse(None))


def _ask(endpoint: ChatEndpoint, case: str = "case-1") -> tuple[str, Consumption]:
    sent, *pieces = endpoint.stream([{"role": "user", "content": case}], max_tokens=50, regex="x+")
    assert sent == Sent()
    return "".join(piece.text for piece in pieces[:-1]), pieces[-1]


def test_an_answer_comes_with_the_servers_own_figures(server: ChatServer) -> None:
    endpoint = _endpoint(server)
    text, taken = _ask(endpoint)
    assert text == "".join(ANSWER)
    assert taken == Consumption(500, 400, len(ANSWER), PAID)
    assert endpoint.purse.spent_usd == pytest.approx(PAID)
    assert server.bodies[0]["structured_outputs"] == {"regex": "x+"}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_the_server_refused_is_tried_again_and_costs_nothing(server: ChatServer, status: int) -> None:
    server.behave = lambda case, number: f"refuse:{status}" if number < 3 else "answer"
    endpoint = _endpoint(server)
    assert _ask(endpoint)[0] == "".join(ANSWER)
    assert (server.asked["case-1"], server.answered["case-1"]) == (4, 1)
    assert endpoint.purse.spent_usd == pytest.approx(PAID)


@pytest.mark.parametrize(
    ("behaviour", "problem", "asked", "paid"),
    [
        ("refuse:400", "refused with status 400", 1, False),
        ("refuse:503", "refused with status 503", 3, False),
        ("half", "the answer broke off", 1, True),
        ("garbage", r"the answer broke off \(\w+\)", 1, True),
        ("html", "the answer broke off", 1, True),
        ("hang_up", "hung up without an answer", 1, True),
        ("silence", "silent for 1 s", 1, True),
        ("refuse:408", "gave up with status 408", 1, True),
        ("refuse:502", "gave up with status 502", 1, True),
        ("refuse:504", "gave up with status 504", 1, True),
        ("ended:content_filter", "the answer ended with content_filter", 1, False),
        ("cut", "the answer broke off", 1, True),
    ],
)
def test_what_may_have_been_paid_is_said_and_not_repeated(
    server: ChatServer, behaviour: str, problem: str, asked: int, paid: bool
) -> None:
    server.behave = lambda case, number: behaviour
    endpoint = _endpoint(server, max_tries=3, timeout_seconds=1.0 if behaviour == "silence" else 20.0)
    with pytest.raises(EndpointError, match=problem) as caught:
        _ask(endpoint)
    assert server.asked["case-1"] == asked
    assert caught.value.consumption.estimated is paid
    assert (endpoint.purse.spent_usd > 0) is (paid or behaviour.startswith("ended"))
    assert endpoint.purse.spent_usd == pytest.approx(caught.value.consumption.cost_usd)


def test_no_server_is_said() -> None:
    gone = ChatServer()
    gone.stop()
    with pytest.raises(EndpointError, match="no connection"):
        _ask(_endpoint(gone, max_tries=2))


def test_a_connection_that_nobody_accepts_costs_nothing() -> None:
    with socket.socket() as deaf, ExitStack() as callers:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(4):  # fill its queue
            caller = callers.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(deaf.getsockname())
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/v1"
        endpoint = ChatEndpoint(EndpointSettings(base_url=url, timeout_seconds=0.5, max_tries=2, **PRICES), Purse(None))
        with pytest.raises(EndpointError, match="no connection") as caught:
            _ask(endpoint)
    assert (caught.value.consumption, endpoint.purse.spent_usd) == (NOTHING, 0)


@pytest.mark.parametrize("behaviour", ["silence", "comments", "slow:0.2"])
def test_the_deadline_holds_from_the_sending_on(server: ChatServer, behaviour: str) -> None:
    server.behave = lambda case, number: behaviour
    endpoint, started = _endpoint(server, deadline_seconds=1.0), time.monotonic()
    with pytest.raises(EndpointError, match="no end within 1 s") as caught:
        _ask(endpoint)
    assert time.monotonic() - started < 10  # the server would go on for 30 s, or for ever
    assert caught.value.consumption.estimated


@pytest.mark.parametrize("behaviour", ["silence", "comments"])
def test_whoever_has_enough_is_free_though_nothing_comes(server: ChatServer, behaviour: str) -> None:
    server.behave = lambda case, number: behaviour
    asking, started = threading.Event(), time.monotonic()
    threading.Timer(0.5, asking.set).start()
    endpoint = _endpoint(server)
    try:
        _, *pieces = endpoint.stream(MESSAGES, max_tokens=50, enough=asking.is_set)
    except EndpointError as error:
        pieces = [error.consumption]
    assert time.monotonic() - started < 10
    assert [piece.estimated for piece in pieces] == [True]
    assert endpoint.purse.spent_usd == pytest.approx(pieces[0].cost_usd)


def test_a_request_whose_turn_comes_too_late_is_not_sent(server: ChatServer) -> None:
    endpoint = _endpoint(server, requests_per_minute=1)
    _ask(endpoint)
    enough = threading.Event()
    threading.Timer(0.3, enough.set).start()
    with pytest.raises(EndpointError, match="nobody waits") as caught:
        list(endpoint.stream(MESSAGES, max_tokens=50, enough=enough.is_set))
    assert (caught.value.consumption, sum(server.asked.values())) == (NOTHING, 1)


def test_a_server_may_say_when_to_come_again_by_the_clock(server: ChatServer) -> None:
    server.behave = lambda case, number: "refuse:429" if number == 0 else "answer"
    server.retry_after, started = formatdate(time.time() + 3, usegmt=True), time.monotonic()
    _ask(_endpoint(server))
    assert 1 < time.monotonic() - started < 20
    server.retry_after = "nan"
    assert _ask(_endpoint(server), "case-2")[0] == "".join(ANSWER)


def test_a_refusal_names_the_parameter_and_never_the_message(server: ChatServer) -> None:
    server.behave = lambda case, number: "refuse:400"
    server.error = {"message": "case-1 is refused", "code": "unsupported_parameter", "param": "max_tokens"}
    with pytest.raises(EndpointError, match=r"refused with status 400 \(unsupported_parameter, max_tokens\)$"):
        _ask(_endpoint(server))
    server.error = {"message": "no", "code": "what a user said", "param": None}
    with pytest.raises(EndpointError, match=r"refused with status 400$"):
        _ask(_endpoint(server))


def test_what_a_server_does_not_take_can_be_left_out(server: ChatServer) -> None:
    left_out = ("temperature", "seed", "stream_options")
    _ask(_endpoint(server, max_tokens_name="max_completion_tokens", left_out=left_out))
    assert not {"max_tokens", *left_out} & server.bodies[0].keys()
    assert server.bodies[0]["max_completion_tokens"] == 50


def test_half_figures_are_none(server: ChatServer) -> None:
    server.behave = lambda case, number: "null_usage"
    _, taken = _ask(_endpoint(server))
    assert (taken.estimated, taken.completion_tokens) == (True, 50)


def test_a_character_in_two_pieces_is_one(server: ChatServer) -> None:
    server.behave = lambda case, number: "halves"
    text, _ = _ask(_endpoint(server))
    assert "The seller \N{GRINNING FACE} asked." in text


def test_the_budget_is_kept_to_the_cent_by_many_threads(server: ChatServer) -> None:
    purse = Purse(10.5 * PAID)
    endpoint = _endpoint(server, purse=purse, concurrency=4)

    def ask(number: int) -> bool:
        try:
            _ask(endpoint, f"case-{number}")
        except BudgetSpentError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        answered = sum(pool.map(ask, range(30)))
    assert purse.spent_usd <= 10.5 * PAID
    assert purse.spent_usd == pytest.approx(answered * PAID)
    assert answered >= 7  # the last ones may not fit with what they could cost at most
    assert sum(server.answered.values()) == answered
    assert server.most_at_once <= 4


def test_a_request_that_no_budget_holds_is_not_sent(server: ChatServer) -> None:
    with pytest.raises(BudgetSpentError, match="raise budget_usd and run again"):
        _ask(_endpoint(server, purse=Purse(0.0)))
    assert not server.asked


def test_a_reservation_waits_for_others_to_settle() -> None:
    purse, took = Purse(1.0), threading.Event()
    purse.reserve(0.9)
    waiting = threading.Thread(target=lambda: (purse.reserve(0.5), took.set()))
    waiting.start()
    assert not took.wait(0.2)
    purse.settle(0.9, 0.1)
    waiting.join(20)
    assert took.is_set()


def test_starts_keep_their_pace(server: ChatServer) -> None:
    endpoint = _endpoint(server, requests_per_minute=600)
    started = time.monotonic()
    for _ in range(4):
        _ask(endpoint)
    assert time.monotonic() - started >= 0.3


def test_without_figures_the_upper_bound_is_paid(server: ChatServer) -> None:
    server.behave = lambda case, number: "plain"
    _, taken = _ask(_endpoint(server))
    assert taken.estimated
    assert taken.completion_tokens == 50


def test_enough_closes_the_connection(server: ChatServer) -> None:
    pieces = []
    for piece in _endpoint(server).stream(MESSAGES, max_tokens=50, enough=lambda: len(pieces) >= 2):
        pieces.append(piece)
    assert len(pieces) <= 4
    assert isinstance(pieces[-1], Consumption)


def _piece(delta: dict[str, Any] | None, reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason, **more}]}


_USAGE = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}}
_BARE = {"token": "yes", "bytes": None, "logprob": -0.1, "top_logprobs": None}
_NO_NUMBER = {**_BARE, "logprob": None, "top_logprobs": [{"token": "no", "bytes": None, "logprob": None}]}


@pytest.mark.parametrize(
    "chunks",
    [
        [_piece({"role": "assistant", "content": ""}), _piece({"content": "yes"}, logprobs=None), _piece({}, "stop")],
        [_piece({"content": None, "reasoning_content": "hm"}), _piece({"content": "yes"}), _piece({}, "stop")],
        [{"choices": [], "prompt_filter_results": []}, _piece({"content": "yes"}), _piece({}, "stop")],
        [_piece({"content": "yes"}), _piece(None, "stop")],
        [_piece({"content": "yes"}), {"choices": [{"index": 0, "finish_reason": "stop"}]}],
        [_piece({"content": "yes"}, logprobs={"content": [_BARE]}), _piece({}, "length")],
        [_piece({"content": "yes"}, logprobs={"content": [_NO_NUMBER]}), _piece({}, "stop")],
    ],
)
def test_answers_of_many_servers_are_read_and_cost_what_these_say(server: ChatServer, chunks: list[Any]) -> None:
    server.behave, server.given = lambda case, number: "given", [*chunks, _USAGE]
    _, *pieces, taken = _endpoint(server).stream(MESSAGES, max_tokens=50)
    assert "".join(piece.text for piece in pieces) == "yes"
    assert not any(piece.alternatives for piece in pieces)  # a token alone does not say how sure anybody is
    assert (taken.completion_tokens, taken.estimated) == (3, False)


@pytest.mark.parametrize(
    ("last", "problem"),
    [
        (_piece({"content": None, "refusal": "I will not say case-1"}, "stop"), "the answer ended with a refusal$"),
        (_piece({"tool_calls": [{"index": 0}]}, "tool_calls"), "the answer ended with tool_calls$"),
        ({"error": {"message": "case-1 was too much", "code": "rate_limited"}}, r"\(APIError \(rate_limited\)\)$"),
    ],
)
def test_an_answer_that_is_none_says_why_and_quotes_nothing(server: ChatServer, last: Any, problem: str) -> None:
    server.behave, server.given = lambda case, number: "given", [_piece({"content": "ye"}), last, _USAGE]
    with pytest.raises(EndpointError, match=problem):
        _ask(_endpoint(server))


def test_what_one_server_alone_wants_to_be_told_is_sent_as_it_is(server: ChatServer) -> None:
    thinking = {"chat_template_kwargs": {"enable_thinking": False}}
    _ask(_endpoint(server, further=thinking))
    assert server.bodies[0].items() >= {**thinking, "structured_outputs": {"regex": "x+"}}.items()
