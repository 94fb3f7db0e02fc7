"""The engine pool on a cluster of pretend GPUs: it grows while shards wait and takes no more GPUs than it may."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.conftest import PROJECT

SCRIPT = """
import json, os, sys, time
from dataclasses import dataclass
from pathlib import Path
import ray
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 150 * 2**20})
for _ in range(2):
    cluster.add_node(num_cpus=4, num_gpus=2, object_store_memory=150 * 2**20)
ray.init(cluster.address)
from relevance.engines.label_model import open_label_model
from relevance.scoring.day import score_day
from relevance.scoring.run import ScoringSettings, open_run
from tests.builders.fakes import FakeEngine
from tests.builders.pairs_data import make_pairs, write_pairs

@dataclass(frozen=True)
class Loader:
    marks: str
    together: int

    def __call__(self, settings, model, label_ids):
        mark = Path(self.marks) / f"{os.getpid()}.json"
        here = ray.get_runtime_context()
        mark.write_text(json.dumps({"gpu": here.get_accelerator_ids()["GPU"], "node": here.get_node_id()}))
        marks, together = Path(self.marks), self.together

        class Waiting(FakeEngine):
            def label_logprobs(self, batch):
                # Shards go on only once the pool has grown: a pool that does not grow would wait for ever.
                deadline = time.monotonic() + 120
                while len(list(marks.iterdir())) < together:
                    assert time.monotonic() < deadline, "the pool did not grow"
                    time.sleep(0.05)
                return super().label_logprobs(batch)

        return Waiting()

root, model, gpus_per_actor, max_actors = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
write_pairs(make_pairs(240), str(root / "pairs"))
(root / "marks").mkdir()
settings = ScoringSettings(
    shard_rows=20, max_actors=max_actors, gpus_per_actor=gpus_per_actor, cpus_per_actor=0.5
)
label_model = open_label_model(model, None, quantization="none", cache_dir=str(root))
run = open_run(str(root / "pairs"), str(root / "scores"), label_model, settings)
together = int(sys.argv[5])
day = score_day(run, load=Loader(str(root / "marks"), together))
marks = [json.loads(path.read_text()) for path in (root / "marks").iterdir()]
head = next(node["NodeID"] for node in ray.nodes() if not node["Resources"].get("CPU"))
print(json.dumps({
    "counts": day.figures["counts"],
    "actors": len(marks),
    "gpus": sorted({mark["node"] + ":" + gpu for mark in marks for gpu in mark["gpu"]}),
    "on_head": sum(mark["node"] == head for mark in marks),
}))
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("gpus_per_actor", "max_actors", "together", "num_gpus"),
    [
        (1, 4, 4, 4),
        pytest.param(0.5, 4, 4, 2, marks=pytest.mark.slow, id="two share a GPU"),
        pytest.param(1, 10, 4, 4, marks=pytest.mark.slow, id="more asked for than there will ever be"),
    ],
)
def test_the_pool_grows_to_its_maximum_and_keeps_to_its_gpus(
    tmp_path, tiny_model, gpus_per_actor: float, max_actors: int, together: int, num_gpus: int
) -> None:
    arguments = [str(tmp_path), str(tiny_model), str(gpus_per_actor), str(max_actors), str(together)]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], cwd=PROJECT, capture_output=True, text=True, timeout=350
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["counts"]["labelled"] == 240
    # What waits for a GPU until the end may get one as others are let go.
    assert together <= result["actors"] <= max_actors
    assert result["on_head"] == 0
    assert num_gpus <= len(result["gpus"]) <= 4


@pytest.mark.usefixtures("local_ray")
def test_ray_datas_coordinator_looks_for_new_nodes_when_it_is_asked() -> None:
    """What `_new_nodes_noticed` relies on, and would only miss: names of Ray's own."""
    import ray

    from cluster.sharded.pool import _COORDINATOR, one_block_each, run_to_end

    run_to_end(one_block_each([{"number": number} for number in range(2)]))
    coordinator = ray.get_actor(_COORDINATOR, namespace=_COORDINATOR)
    requests = ray.get(coordinator.get_reserved_resources.remote("nobody", recompute=True), timeout=60)
    assert requests == {}
