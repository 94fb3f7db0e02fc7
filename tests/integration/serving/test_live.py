"""The endpoint on real Ray Serve over real HTTP, the model in a replica of its own: what breaks, and what does not.

One server for all tests of this file: starting Ray and Serve takes longer than the tests.
"""

from __future__ import annotations

import json
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import cycle
from typing import Any

import httpx
import psutil
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from cancellation.decision.policy import load_policy
from cancellation.serving.records.shipped_log import read_log
from tests.servers.s3 import S3Server
from tests.servers.serving_process import (
    FEEDBACK_TOKEN,
    POISON,
    TOKEN,
    Served,
    add_poison,
    copy_model,
    rename_model,
    served,
)
from tests.servers.serving_replicas import simulated_event

RATE = 20.0
"""Requests per second of the streams: also on a machine that does ten other things, while replicas start on it."""

LOAD = 50.0
"""The same where the load is the point."""

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server) -> Iterator[Served]:
    import s3fs

    folder = tmp_path_factory.mktemp("serving")
    s3fs.S3FileSystem(endpoint_url=s3_server.url).mkdir("decisions")
    model = copy_model(folder, "live")
    add_poison(model)
    shadow = {"name": "next", "source": str(copy_model(folder, "next")), "share": 1.0, "timeout_seconds": 1.0}
    settings = [
        "serving.colocated=false",
        f"serving.model.source={model}",
        f"serving.shadows={json.dumps([shadow])}",
        # Tests share their machine: nothing is refused for being slow.
        "serving.admission.max_loop_lag_ms=60000",
        "serving.admission.max_queue_age_ms=60000",
        "serving.admission.standing_ms=60000",
        "serving.admission.max_ongoing=1000",
        "serving.deadlines.default_ms=20000",
        "serving.deadlines.model_ms=10000",
        "serving.model.hung_seconds=10",
        "serving.decision_log.segment_seconds=2",
        "serving.shipper.interval_seconds=0.5",
        "serving.shipper.max_backoff_seconds=1",
        "serving.models.num_cpus=0.5",
        "serving.gateways.num_cpus=0.5",
    ]
    with served(folder, output="s3://decisions", environment=s3_server.environment(), settings=settings) as one:
        yield one
    # An end in order ships what is left.
    assert list((folder / "data" / "log" / "decisions").glob("*-*")) == []


def test_an_answer_comes_from_the_model_and_is_on_record(endpoint: Served) -> None:
    event = {**simulated_event(1), "event_id": "first"}
    answer = endpoint.judge(event)
    assert answer.status_code == 200
    assert answer.json()["source"] == "model"
    assert answer.json()["model_version"].startswith("live@")
    assert endpoint.judge(event).content == answer.content
    assert endpoint.http.get("/v1/verdicts/first").json()["verdict"]["event_id"] == "first"
    assert "first" in endpoint.logged()
    endpoint.until(lambda: "ray_cancellation_verdicts_total" in endpoint.http.get("/metrics").text)


def test_strangers_and_hostile_requests_are_refused(endpoint: Served) -> None:
    event = json.dumps(simulated_event(2)).encode()
    json_type = {"content-type": "application/json"}
    with httpx.Client(base_url=endpoint.url, timeout=30) as stranger:
        assert stranger.get("/healthz").status_code == 200
        assert stranger.post("/v1/verdicts", content=event, headers=json_type).status_code == 401
        wrong = {**json_type, "authorization": f"Bearer {FEEDBACK_TOKEN}"}
        assert stranger.post("/v1/verdicts", content=event, headers=wrong).status_code == 403
    post = endpoint.http.post
    assert post("/v1/verdicts", content=b" " * 10_000_000, headers=json_type).status_code == 413
    assert post("/v1/verdicts", content=b"[" * 500_000, headers=json_type).status_code == 422
    assert post("/v1/verdicts", content=event, headers={"content-type": "text/xml"}).status_code == 415
    refused = endpoint.judge({**simulated_event(2), "chat": [{"at": "SECRET", "sender": "buyer", "text": "SECRET"}]})
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "chat[0].at")
    assert "SECRET" not in refused.text


def test_an_appeal_is_granted_and_the_action_to_take_back_is_in_the_archive(endpoint: Served) -> None:
    events = ({**simulated_event(number), "event_id": f"appealed-{number}"} for number in range(200, 300))
    event = next(event for event in events if endpoint.judge(event).json()["action"] != "none")
    post, name = endpoint.http.post, event["event_id"]
    appeal = {"event_id": name, "seller_id": event["seller_id"], "reason": "The buyer wanted it."}
    assert post("/v1/appeals", json=appeal, headers={"authorization": f"Bearer {FEEDBACK_TOKEN}"}).status_code == 403
    case = post("/v1/appeals", json=appeal).json()
    step = f"/v1/reviews/{case['appeal_id']}"
    assert post(step, json={"step": "take", "reviewer": "ann"}).json()["state"] == "with_reviewer"
    decision = {"step": "overturn", "reviewer": "ann", "label": "not_induced", "reason": "As the chat says."}
    assert post(step, json=decision).json()["state"] == "overturned"
    assert "its action is reversed" in endpoint.http.get(f"/v1/statements/{name}").json()["contest"]

    def reversed_events() -> list[str]:
        return read_log(f"{endpoint.output}/reversals", columns=["event_id"])["event_id"].to_pylist()

    endpoint.until(lambda: reversed_events() == [name])
    endpoint.until(lambda: endpoint.measured("ray_cancellation_appeals_total") == 1)


def test_a_poison_item_among_eight_leaves_the_others_as_they_are_alone(endpoint: Served) -> None:
    def named(prefix: str) -> list[dict[str, Any]]:
        return [{**simulated_event(10 + number), "event_id": f"{prefix}-{number}"} for number in range(8)]

    def others(verdicts: list[dict[str, Any]]) -> list[str]:
        return [json.dumps({**verdict, "event_id": ""}) for number, verdict in enumerate(verdicts) if number != 4]

    alone = [endpoint.judge(event).json() for event in named("alone")]
    events = named("eight")
    events[4]["chat"] = [{"at": events[4]["cancelled_at"], "sender": "seller", "text": POISON}]
    results = endpoint.http.post("/v1/verdicts:batch", json={"events": events}).json()["results"]
    assert {result["status"] for result in results} == {200}
    together = [result["verdict"] for result in results]
    assert others(together) == others(alone)
    assert [verdict["source"] for verdict in together] == ["model"] * 4 + ["fallback"] + ["model"] * 3
    assert endpoint.http.get("/v1/verdicts/eight-4").json()["fallback_reason"] == "poison"


def test_a_market_is_off_within_five_seconds_and_a_bad_policy_is_refused(endpoint: Served) -> None:
    policy = endpoint.folder / "data" / "policy.toml"
    kill = policy.with_name("policy.toml.kill")

    def in_force() -> dict[str, Any]:
        return endpoint.http.get("/v1/policy/TH").json()

    kill.write_text("TH\n")
    endpoint.until(lambda: in_force()["state"] == "off", 5)
    killed = endpoint.judge({**simulated_event(20, "TH"), "event_id": "killed-market"}).json()
    assert (killed["source"], killed["policy_version"].endswith("+kill:TH")) == ("rules", True)
    assert endpoint.judge({**simulated_event(20, "ID"), "event_id": "other-market"}).json()["source"] == "model"
    kill.unlink()
    endpoint.until(lambda: in_force()["state"] == "live")
    good = policy.read_text()
    policy.write_text(good.replace("investigate = 0.45", "investigate = 4.5"))
    endpoint.until(lambda: in_force()["refused"] is not None)
    assert "investigate" in in_force()["refused"]
    assert in_force()["thresholds"]["investigate"] == 0.45
    assert endpoint.judge({**simulated_event(21, "TH"), "event_id": "old-policy"}).json()["source"] == "model"
    policy.write_text(good)
    endpoint.until(lambda: in_force()["refused"] is None)


def test_another_models_thresholds_punish_nobody_until_they_are_its_own(endpoint: Served) -> None:
    policy = endpoint.folder / "data" / "policy.toml"
    shipped, threshold = policy.read_text(), load_policy(policy).market("ID").penalty

    def judged(name: str) -> list[dict[str, Any]]:
        answers = (endpoint.judge({**simulated_event(n), "event_id": f"{name}-{n}"}).json() for n in range(80))
        return [verdict for verdict in answers if verdict["source"] == "model" and verdict["score"] > threshold]

    def in_force() -> dict[str, Any]:
        return endpoint.http.get("/v1/policy/ID").json()

    def put(text: str) -> None:
        policy.write_text(text)
        endpoint.until(lambda: in_force()["policy_version"].startswith(text.partition('version = "')[2].split('"')[0]))

    assert "DEMO: policy" in endpoint.printed()
    others = judged("others-proof")
    assert {verdict["action"] for verdict in others} == {"investigate"}
    assert "not for live@" in in_force()["penalty_refused"]
    endpoint.until(lambda: endpoint.measured("ray_cancellation_penalty_refused") == 1)
    endpoint.until(lambda: "ray_cancellation_penalties_withheld_total" in endpoint.http.get("/metrics").text)
    version = others[0]["model_version"]
    own = re.sub(r'(?m)^model_version = ".*"$', f'model_version = "{version}"', shipped)
    put(re.sub(r'(?m)^version = ".*"$', 'version = "own"', own))
    assert in_force()["penalty_refused"] is None
    assert _punished_under(judged("own-proof")) == {("penalty", "own", True)}
    put(re.sub(r'(?m)^version = ".*"$', 'version = "real"', own).replace("demo = true", ""))
    assert "rests on written cases" in in_force()["penalty_refused"]
    assert _punished_under(judged("no-demo")) == {("investigate", "real", False)}
    put(shipped)


def _punished_under(verdicts: list[dict[str, Any]]) -> set[tuple[str, str, bool]]:
    """Actions, and the policy versions without the digest of their content."""
    stamps = [(one["action"], *one["policy_version"].partition("+")) for one in verdicts]
    return {(action, version.rpartition("-")[0], plus + more == "+demo") for action, version, plus, more in stamps}


def test_a_model_killed_under_load_costs_no_answer(endpoint: Served) -> None:
    # Requests wait for the next replica until their own deadline: under this file's patient ones, a replica that is
    # back soon would leave no trace. A second is what callers get who do not ask for more.
    with endpoint.stream("killed", LOAD, **{"X-Deadline-Ms": "1000"}) as stream:
        endpoint.until(lambda: stream.sources().count("model") >= 50)
        (replica,) = endpoint.replicas("model")
        before = stream.answered()
        replica.send_signal(signal.SIGKILL)
        endpoint.until(lambda: "fallback" in stream.sources()[len(before) :])
        endpoint.until(lambda: any(other.pid != replica.pid for other in endpoint.replicas("model")))
        back = len(stream.answered())
        endpoint.until(lambda: "model" in stream.sources()[back:])
    assert stream.refusals() == {}
    assert {"model", "fallback"} == set(stream.sources())
    assert all(body["action"] != "penalty" for body in stream.bodies().values() if body["source"] == "fallback")
    assert stream.answered() <= set(endpoint.logged())


def test_a_killed_haproxy_is_replaced_and_what_it_passed_on_is_on_record(endpoint: Served) -> None:
    with endpoint.stream("proxy", RATE) as stream:
        endpoint.until_answered(stream, 20)
        processes = psutil.Process(endpoint.process.pid).children(recursive=True)
        listening = max((one for one in processes if one.name() == "haproxy"), key=psutil.Process.create_time)
        listening.kill()
        endpoint.until(lambda: 0 in stream.statuses())
        endpoint.until_answered(stream, 20)
    endpoint.until(lambda: stream.answered() <= set(endpoint.archived()))


def test_a_hung_model_is_not_waited_for_beyond_the_deadline(endpoint: Served) -> None:
    endpoint.until(lambda: endpoint.replicas("model") != [])
    replicas = endpoint.replicas("model")
    for replica in replicas:
        replica.suspend()
    try:
        answer = endpoint.judge({**simulated_event(3), "event_id": "in-time"}, **{"X-Deadline-Ms": "50"})
    finally:
        for replica in replicas:
            replica.resume()
    assert answer.status_code == 200
    assert answer.json()["source"] == "fallback"
    endpoint.until(
        lambda: endpoint.judge({**simulated_event(3), "event_id": f"{time.time()}"}).json()["source"] == "model"
    )


def test_a_shadow_slow_then_hung_then_dead_takes_nothing_from_the_answers(endpoint: Served) -> None:
    with endpoint.stream("shadowed", RATE) as stream:
        endpoint.until(lambda: any(event_id.startswith("shadowed") for event_id in endpoint.logged("shadow")))
        (replica,) = endpoint.replicas("shadow-next")
        slow_until = len(stream.answered()) + 40
        while len(stream.answered()) < slow_until:  # ten times as slow: it runs a tenth of the time
            replica.suspend()
            time.sleep(0.09)
            replica.resume()
            time.sleep(0.01)
        replica.suspend()
        endpoint.until_answered(stream, 60)
        replica.send_signal(signal.SIGKILL)
        endpoint.until_answered(stream, 60)
        scored = len(endpoint.logged("shadow"))
        endpoint.until(lambda: len(endpoint.logged("shadow")) > scored)
        # The second time it is not simply started again.
        (replica,) = endpoint.replicas("shadow-next")
        replica.send_signal(signal.SIGKILL)
        endpoint.until(lambda: endpoint.measured("ray_cancellation_shadow_held_seconds") >= 10)
        endpoint.until_answered(stream, 20)
    assert stream.refusals() == {}
    assert stream.reasons(endpoint) == {}
    assert stream.answered() <= set(endpoint.logged())
    metrics = endpoint.http.get("/metrics").text
    lost = [line for line in metrics.splitlines() if "shadow_copies_total" in line and 'outcome="scored"' not in line]
    assert lost
    assert 0 < len(set(endpoint.logged("shadow")) & stream.answered()) < len(stream.answered())


def test_a_store_that_is_down_costs_no_answer_and_gets_everything_afterwards(
    endpoint: Served, s3_server: S3Server
) -> None:
    away = s3_server.fail("PUT", r"/decisions/", status=503, times=1e9)
    with away as down, endpoint.stream("away", RATE) as stream:
        endpoint.until(down.reached.is_set)
        endpoint.until_answered(stream, 20)
    assert stream.refusals() == {}
    endpoint.until(lambda: stream.answered() <= set(endpoint.archived()))


def test_a_gateway_killed_between_answer_and_shipping_loses_nothing_that_was_answered(endpoint: Served) -> None:
    with endpoint.stream("gateway", RATE) as stream:
        endpoint.until_answered(stream, 40)
        (replica,) = endpoint.replicas("gateway")
        replica.send_signal(signal.SIGKILL)
        replica.wait(10)
        answers = endpoint.asked_until_back(simulated_event(7))
        endpoint.until_answered(stream, 20)
    # Who had asked when it died may find the connection broken; all others are told to come again, whatever they ask.
    assert stream.statuses() <= {200, 503, 0}
    assert {status for status, _ in answers[:5]} == {503}
    assert {again for status, again in answers if status == 503} == {"1"}
    assert {status for status, _ in answers} <= {200, 503}
    # Counted in the archive: a segment that is being shipped is for a moment there and on the local disk.
    endpoint.until(lambda: stream.answered() <= set(endpoint.archived()))
    on_record = Counter(endpoint.archived())
    assert {on_record[event_id] for event_id in stream.answered()} == {1}


def test_an_upgrade_under_load_drops_nothing(endpoint: Served) -> None:
    with endpoint.stream("upgrade", RATE) as stream, ExitStack() as connections:
        endpoint.until_answered(stream, 20)
        # Connections that idle, not for the 5 s after which httpx closes them, while what they talk to is replaced.
        kept = [connections.enter_context(httpx.Client(base_url=endpoint.url)) for _ in range(12)]
        asked = [one.get("/healthz").status_code for one in kept]
        before = endpoint.replicas("gateway")
        rename_model(endpoint.folder / "live", "better")
        endpoint.process.send_signal(signal.SIGHUP)
        turns = cycle(kept)

        def upgraded() -> bool:
            asked.append(next(turns).get("/healthz").status_code)
            last = list(stream.bodies().values())[-1]
            return last["model_version"].startswith("better@") and not any(one.is_running() for one in before)

        endpoint.until(upgraded, 180, every=4.5 / len(kept))
        asked += [one.get("/healthz").status_code for one in kept]
    assert stream.refusals() == {}
    assert set(asked) == {200}
    assert stream.answered() <= set(endpoint.logged())


def test_an_upgrade_that_cannot_start_is_reported_and_leaves_what_runs(endpoint: Served) -> None:
    network = endpoint.folder / "live" / "model.onnx"
    whole = network.read_bytes()
    with endpoint.stream("broken", RATE) as stream:
        network.write_bytes(whole[: len(whole) // 2])
        endpoint.process.send_signal(signal.SIGHUP)
        endpoint.until(lambda: "the rollout failed" in endpoint.printed(), 180)
        endpoint.until_answered(stream, 20)
    assert stream.refusals() == {}
    assert set(stream.sources()) == {"model"}
    network.write_bytes(whole)


@pytest.mark.slow
def test_a_shadow_that_cannot_start_is_reported_and_does_not_hold_up_an_upgrade(endpoint: Served) -> None:
    (endpoint.folder / "next" / "model.onnx").write_bytes(b"no network")
    rename_model(endpoint.folder / "live", "best")
    said = len(endpoint.printed())
    with endpoint.stream("unshadowed", RATE) as stream:
        endpoint.process.send_signal(signal.SIGHUP)
        endpoint.until(lambda: "can be done without did not start: shadow-next" in endpoint.printed()[said:], 180)
        endpoint.until_answered(stream, 20)
    assert stream.refusals() == {}
    last = list(stream.bodies().values())[-1]
    assert last["model_version"].startswith("best@")


def test_the_description_holds_for_whatever_is_sent(endpoint: Served) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    description = endpoint.http.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(description)
    schema.config.update(base_url=endpoint.url)
    for result in schema.get_all_operations():
        operation = result.ok()

        @given(case=operation.as_strategy())
        @settings(
            max_examples=15,
            deadline=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def check(case: schemathesis.Case) -> None:
            answer = case.call(headers=headers)
            assert answer.status_code in {int(status) for status in case.operation.definition.raw["responses"]}
            # What is later than the cancellation is refused, which a schema cannot say.
            case.validate_response(answer, excluded_checks=[positive_data_acceptance])

        check()
