"""The peer: FastAPI and uvicorn as one would write them, the same parser, features and model, once per request.

python -m tests.benchmarks.serving.peer PORT
"""

from __future__ import annotations

import sys
from typing import Any

import uvicorn
from fastapi import Body, FastAPI

from cancellation.decision.policy import load_policy
from cancellation.decision.verdicts import model_verdict
from cancellation.events.event import parse_event
from cancellation.serving.inference.model import load_model
from cancellation.serving.settings import ModelSettings

app = FastAPI()
model, policy = load_model(ModelSettings()), load_policy()


@app.post("/v1/verdicts")
def verdict(mapping: dict[str, Any] = Body()) -> dict[str, Any]:  # noqa: B008
    """Judge an event; FastAPI runs this in its pool of threads."""
    event = parse_event(mapping)
    scores = model.score([model.encoder.encode(event)])
    return model_verdict(
        event.event_id,
        event.market,
        scores.logits[0].tolist(),
        scores.factor_probabilities[0].tolist(),
        policy=policy,
        model=model.identity,
    )


@app.get("/healthz")
def healthy() -> dict[str, str]:
    """Say so."""
    return {"status": "alive"}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
