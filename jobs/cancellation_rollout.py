"""Change what all gateways of a shared database have in force: throw the kill switch, take it back, publish a policy.

Prints what is in force from now on; every gateway follows within five seconds. The database's password comes from
PGPASSFILE, ~/.pgpass or PGPASSWORD. Safe to repeat. Where there is no such database, edit the files of the machine.

    python -m jobs.cancellation_rollout database=postgresql://verdicts@db/verdicts 'kill=["BR"]'
    python -m jobs.cancellation_rollout database=postgresql://verdicts@db/verdicts 'revive=["BR"]'
    python -m jobs.cancellation_rollout database=postgresql://verdicts@db/verdicts policy=policy.toml
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import StringConstraints

from cancellation.decision.policy import read_policy
from cancellation.serving.rollout.policy_sources import checked_policy
from cancellation.serving.shared_state import open_tables
from cluster import storage
from cluster.launch import run_job
from cluster.places import InputUrl
from cluster.settings import Settings

Market = Annotated[str, StringConstraints(pattern=r"^([A-Z]{2}|\*)$")]


class RolloutJob(Settings):
    """What to change; nothing shows what is there."""

    database: str
    """`serving.database`."""

    kill: tuple[Market, ...] = ()
    """Markets that the rules answer from now on, whatever the policy says; * for all."""

    revive: tuple[Market, ...] = ()
    """Markets, or *, that the kill switch no longer holds."""

    policy: InputUrl | None = None
    """Policy file to publish."""


def main(job: RolloutJob) -> None:
    """Check the policy, change, and say what is in force."""
    content = storage.read_bytes(job.policy) if job.policy else None
    if content is not None:
        read_policy(content, str(job.policy))
    database, tables = open_tables(job.database)
    try:
        killed = tables.change_kill_switch(kill=job.kill, revive=job.revive)
        if content is not None:
            tables.publish(content)
        policy = checked_policy(tables.read(), tables.place)
        print(f"policy {policy.version}, killed: {' '.join(killed) or 'none'}")
        # Told and not refused: a kill switch is thrown first, and looked at then.
        if unknown := sorted({*job.kill} - {"*", *policy.markets}):
            print(f"no market of the policy: {' '.join(unknown)}; it has {' '.join(sorted(policy.markets))}")
    finally:
        database.close()


if __name__ == "__main__":
    run_job(main, RolloutJob, defaults=Path(__file__).with_suffix(".toml"))
