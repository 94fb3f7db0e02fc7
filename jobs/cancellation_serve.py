"""Serve verdicts on cancelled orders over HTTP, until interrupted.

Reads the model and the policy named in the settings, and bearer tokens from the file that VERDICTS_TOKENS_FILE
names (a line each: token, then its scopes); without one it makes a token and says where. Writes decisions to
`serving.data_dir` first and ships them to `serving.output`. What several machines share goes to `serving.database`,
whose password comes from PGPASSFILE or PGPASSWORD. Safe to start again: nothing that was answered is lost.

    python -m jobs.cancellation_serve
    python -m jobs.cancellation_serve serving.colocated=false serving.model.source=models:/cancellation@champion

On a cluster: serve deploy cluster/serving/serve.yaml
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from cancellation.decision.actions import demo_line
from cancellation.serving import places
from cancellation.serving.http.tokens import TokenStore
from cancellation.serving.records.archive import unshipped
from cancellation.serving.records.people import PersonKey
from cancellation.serving.rollout.policy_sources import checked_policy
from cancellation.serving.settings import ServingSettings
from cancellation.serving.shared_state import open_state
from cluster.launch import run_job
from cluster.serving.service import ServiceSettings, passes_on, run_application, secret_path, serving_session
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
    serving = _with_absolute_paths(job.serving).model_copy(update={"service_name": str(job.service.port)})
    with places.named_disk_failures(serving):
        TokenStore.load(tokens := places.prepare_tokens(serving))
        state = open_state(serving, PersonKey.load(places.prepare_person_key(serving)))
        policy, demo = state.policy.place, demo_line(checked_policy(state.policy.read(), state.policy.place))
        state.close()
        for mark in (places.draining_path(serving), places.own_draining_path(serving)):
            mark.unlink(missing_ok=True)
    with serving_session(job.session, job.service) as own_ray:
        from cancellation.serving.app import APP_NAME, application, is_shadow  # reads Ray's switches

        address = f"http://{job.service.host}:{job.service.port}"

        def announce() -> None:
            print(f"serving on {address}, page {address}/docs", flush=True)
            print("\n".join([f"tokens {tokens}", f"policy {policy}", *([demo] if demo else [])]), flush=True)

        def stop() -> None:
            if own_ray:
                print(f"stopping: not ready from now on, {job.service.drain_seconds:g} s of notice", flush=True)
                places.begin_draining(serving)
                time.sleep(job.service.drain_seconds)

        run_application(
            lambda: application(serving),
            name=APP_NAME,
            on_ready=announce,
            on_stop=stop,
            # What is announced answers. The proxies of a cluster may be out of reach from here.
            **({"reached": partial(passes_on, job.service, "/healthz"), "lost": own_ray.lost} if own_ray else {}),
            dispensable=is_shadow,
        )
    places.end_draining(serving)
    if own_ray and serving.output is not None and (left := unshipped(places.log_folder(serving))).segments:
        print(left, flush=True)


def _with_absolute_paths(serving: ServingSettings) -> ServingSettings:
    """Replicas have a working directory of their own."""
    tokens = secret_path("VERDICTS_TOKENS_FILE") or serving.tokens_file
    key = secret_path("VERDICTS_PERSON_KEY_FILE") or serving.person_key_file
    absolute = {
        "data_dir": absolute_url(serving.data_dir),
        "output": serving.output and absolute_url(serving.output),
        "tokens_file": tokens and absolute_url(tokens),
        "person_key_file": key and absolute_url(key),
    }
    policy = serving.rollout.policy
    rollout = serving.rollout.model_copy(update={"policy": policy and absolute_url(policy)})
    return serving.model_copy(update={**absolute, "rollout": rollout})


if __name__ == "__main__":
    run_job(main, ServeJob, defaults=Path(__file__).with_suffix(".toml"), estimate="it runs until it is stopped")
