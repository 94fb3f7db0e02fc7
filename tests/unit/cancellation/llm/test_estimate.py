"""What a labelling will cost, said before: never less at most than what is booked in the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cancellation.decision.policy import load_policy
from cancellation.events.files import find_event_shards, read_event_rows
from cancellation.llm.backends import BackendSettings, open_backend
from cancellation.llm.estimate import estimate_cost
from cancellation.llm.judging import JudgingSettings
from cancellation.llm.labelling import Labeller, LabellingSettings, count_rows, label_rows
from cancellation.llm.run import LabellingRun, LabellingRunSettings
from cluster.commit import Output
from cluster.endpoint.ledger import RequestLedger
from cluster.endpoint.settings import EndpointSettings
from tests.builders.cancellation_events import sample_event
from tests.servers.chat_endpoint import ChatServer


@pytest.mark.parametrize("reflect", [False, True])
def test_what_is_booked_for_a_server_that_always_breaks_off_is_within_the_estimate(
    tmp_path: Path, reflect: bool
) -> None:
    # With reflection the first answer is whole and without figures, so that both requests of a try are booked.
    server = ChatServer(lambda case, _: "plain" if reflect and case != "other" else "half")
    names = [{"event_id": f"e-{n}", "order_id": f"o-{n}", "buyer_reason": f"case-{n}"} for n in range(5)]
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps({"event": {**sample_event(), **name}}) + "\n" for name in names))
    endpoint = EndpointSettings(base_url=server.url, input_usd=1, output_usd=10)
    backend = BackendSettings(kind="endpoint", endpoint=endpoint)
    labelling = LabellingSettings(tries=3, judging=JudgingSettings(reflect=reflect))
    output = Output(str(tmp_path / "labels"))
    run = LabellingRun(str(path), output, backend, load_policy(), labelling, LabellingRunSettings(), str(tmp_path))
    estimate = estimate_cost(run)
    assert not server.asked
    (shard,) = find_event_shards(str(path), shard_bytes=2**20)
    labeller = Labeller(open_backend(backend, None, cache_dir=str(tmp_path)), labelling, run.policy)
    table = label_rows(list(read_event_rows(shard)), labeller, RequestLedger(f"{tmp_path}/ledger"), parallel=2)
    server.stop()
    booked = count_rows(table).usage.cost_usd
    assert count_rows(table).failed == 5
    assert booked <= estimate.most_usd <= 2 * booked
