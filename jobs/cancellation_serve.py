"""Serve verdicts on cancelled orders over HTTP, until interrupted.

Reads the model and the policy named in the settings, and bearer tokens from the file that VERDICTS_TOKENS_FILE
names (a line each: token, then its scopes); without one it makes a token and says where. Writes decisions to
`serving.data_dir` first and ships them to `serving.output`. Safe to start again: nothing that was answered is lost.

    python -m jobs.cancellation_serve
    python -m jobs.cancellation_serve serving.colocated=false serving.model.source=models:/cancellation@champion

On a cluster: serve deploy cluster/serving/serve.yaml
"""

from __future__ import annotations

from pathlib import Path

from cancellation.decision.actions import demo_line
from cancellation.decision.policy import load_policy
from cancellation.serving.replica import policy_path, tokens_path
from cancellation.serving.settings import ServingSettings
from cluster.launch import run_job
from cluster.serving.service import ServiceSettings, run_application, secret_path, serving_session
from cluster.session import SessionSettings
from cluster.settings import Settings
from cluster.storage import absolute_url


class ServeJob(Settings):
    """The endpoint's settings."""

    serving: ServingSettings = ServingSettings()
    service: ServiceSettings = ServiceSettings()
    session: SessionSettings = SessionSettings()


def main(job: ServeJob) -> None:
    """Serve until a signal says stop; SIGHUP looks at the model's source anew and rolls it out."""
    serving = _with_absolute_paths(job.serving)
    tokens = tokens_path(serving)
    with serving_session(job.session, job.service):
        from cancellation.serving.app import APP_NAME, application, is_shadow  # reads Ray's switches

        address = f"http://{job.service.host}:{job.service.port}"

        def announce() -> None:
            print(f"serving on {address}, page {address}/docs", flush=True)
            policy = policy_path(serving)
            print(f"tokens {tokens}\npolicy {policy}", flush=True)
            if line := demo_line(load_policy(policy)):
                print(line, flush=True)

        run_application(lambda: application(serving), name=APP_NAME, on_ready=announce, dispensable=is_shadow)


def _with_absolute_paths(serving: ServingSettings) -> ServingSettings:
    """Replicas have a working directory of their own."""
    tokens = secret_path("VERDICTS_TOKENS_FILE") or serving.tokens_file
    absolute = {
        "data_dir": absolute_url(serving.data_dir),
        "output": serving.output and absolute_url(serving.output),
        "tokens_file": tokens and absolute_url(tokens),
    }
    policy = serving.rollout.policy
    rollout = serving.rollout.model_copy(update={"policy": policy and absolute_url(policy)})
    return serving.model_copy(update={**absolute, "rollout": rollout})


if __name__ == "__main__":
    run_job(main, ServeJob, defaults=Path(__file__).with_suffix(".toml"))
