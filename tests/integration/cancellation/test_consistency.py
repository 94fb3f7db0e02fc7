"""The consistency job as a user calls it: a tiny model many times, the shipped one on neutral variants."""

from __future__ import annotations

import json
from pathlib import Path

from cluster.settings import load_settings
from jobs.cancellation_consistency import ConsistencyJob, main
from tests.builders.cancellation_events import sample_event
from tests.servers.chat_endpoint import ChatServer


def test_answers_are_compared_and_not_asked_for_again(tmp_path: Path) -> None:
    server = ChatServer()
    events = tmp_path / "events.jsonl"
    rows = [{**sample_event(), "event_id": f"e-{n}", "buyer_reason": f"case-{n}"} for n in range(6)]
    events.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = [
        f"input={events}",
        f"output={tmp_path}/out",
        f"cache_dir={tmp_path}/cache",
        "backend.kind=endpoint",
        f"backend.endpoint.base_url={server.url}",
        "consistency.num_events=4",
        "consistency.runs=3",
        "consistency.perturbations=8",
        "consistency.resamples=20",
        'invariant=["shipped","rules","llm"]',
    ]
    main(load_settings(ConsistencyJob, arguments))
    found = json.loads((tmp_path / "out" / "consistency.json").read_text())
    assert found["repeated"]["answers"] == 12
    assert found["repeated"]["figures"]["verdict_agreement"]["value"] == 1
    assert found["repeated"]["figures"]["self_bleu"]["value"] == 1
    assert {body["seed"] for body in server.bodies[:12]} == {0, 1, 2}
    assert set(found["invariance"]) == {"shipped", "rules", "llm"}
    assert found["invariance"]["llm"]["flip_rate"]["value"] == 0
    assert 0 <= found["invariance"]["shipped"]["largest_change"] < 1
    asked = sum(server.asked.values())
    main(load_settings(ConsistencyJob, [*arguments, 'invariant=["rules"]']))
    assert sum(server.asked.values()) == asked
    assert "flip rate" in (tmp_path / "out" / "consistency.md").read_text()
    server.stop()
