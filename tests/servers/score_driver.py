"""A driver process of its own, to be killed:

    python -m tests.servers.score_driver INPUT OUTPUT MODEL SHARD_ROWS [replace]

Runs the scoring day on the Ray at RAY_ADDRESS with an engine whose answers follow from the tokens,
and prints one JSON line.
"""

from __future__ import annotations

import json
import logging
import sys

from cluster.session import SessionSettings, ray_session
from relevance.engines.label_model import open_label_model
from relevance.scoring.day import score_day
from relevance.scoring.run import ScoringSettings, open_run
from tests.builders.fakes import load_fake_engine


def main() -> None:
    logging.basicConfig(level=logging.INFO)
    input_url, output, model_dir, shard_rows = sys.argv[1:5]
    model = open_label_model(model_dir, None, quantization="none", cache_dir="~/.cache/marketplace-llm")
    run = open_run(input_url, output, model, ScoringSettings(shard_rows=int(shard_rows)))
    with ray_session(SessionSettings()):
        day = score_day(
            run,
            load=load_fake_engine,
            extras=lambda figures, seconds: {"report.html": b"<html>"},
            replace_other="replace" in sys.argv,
        )
    print(json.dumps({"already_done": day.already_done, "counts": day.figures["counts"]}))


if __name__ == "__main__":
    main()
