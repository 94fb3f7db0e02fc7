"""Remove people from all that the endpoint keeps (archive, recent answers, appeals, segments of this machine not yet
shipped), from `monitoring`, what the daily job keeps, and from `relabelling`: rounds in which people label, exports of
their answers, labelled sets.

Reads the file `people`, a line each: `seller`, `buyer` or `order`, then the id. Prints how many rows there were and how
many are left, and fails while there are any. Safe to repeat. Run it on every machine that has segments (`data_dir`);
lines of segments that are still being written can go when those are sealed (`decision_log.segment_seconds`).

    python -m jobs.cancellation_forget people=people.txt serving.output=s3://bucket/prefix serving.data_dir=var/serving
    ... monitoring=s3://bucket/monitoring relabelling=s3://bucket/rounds,s3://bucket/exports,s3://bucket/labelled
"""

from __future__ import annotations

from pathlib import Path

from cancellation.monitoring.forgetting import MonitoredDays
from cancellation.relabelling.forgetting import Rounds
from cancellation.serving.appeals.store import AppealStore
from cancellation.serving.places import log_folder, person_key_path
from cancellation.serving.records.forgetting import Places, forget
from cancellation.serving.records.people import PersonKey, lists_nobody, other_keys, read_people
from cancellation.serving.records.recent import RecentDecisions
from cancellation.serving.settings import ServingSettings
from cancellation.serving.shared_state import open_state
from cluster.launch import run_job
from cluster.places import InputUrl, OutputUrl
from cluster.serving.service import secret_path
from cluster.settings import Settings


class ForgetJob(Settings):
    """Whom, and where; the endpoint's own settings say the latter."""

    people: InputUrl
    """File of ids, local or s3://, so that they stand in no list of processes."""

    allow_empty: bool = False
    """Nobody on the list, or no such file, is fine: for a schedule, which runs when nobody has asked as well."""

    relabelling: tuple[OutputUrl, ...] = ()
    """Folders, local or s3://, with rounds of relabelling and of first labels, exports of the answers, labels that came
    of them and labelled sets. Name them together: a task or an answer is found by the round that asked."""

    monitoring: tuple[OutputUrl, ...] = ()
    """Folders, local or s3://, that jobs.cancellation_monitor writes to: `output` there. They name events, whose people
    the archive knows: give the archive with them."""

    serving: ServingSettings = ServingSettings()


def main(job: ForgetJob) -> None:
    """Remove, look again, and say what came of it."""
    if job.serving.output is None:
        raise ValueError("serving.output: expected the archive, found null; run this where the archive is known")
    if job.allow_empty and lists_nobody(job.people):
        print(f"{job.people}: nobody is to be forgotten")
        return
    key_file = secret_path("VERDICTS_PERSON_KEY_FILE")
    key = PersonKey.load(Path(key_file) if key_file else person_key_path(job.serving))
    others = other_keys(job.serving.output, key)
    digests = read_people(job.people, key)
    state = open_state(job.serving, None)  # another key than the endpoints' is searched for too
    recent = RecentDecisions(state.database, retention_seconds=job.serving.retention_hours * 3600)
    rounds = Rounds(job.relabelling, key)
    monitored = MonitoredDays(job.monitoring)
    appeals = AppealStore(state.appeals)
    places = Places(job.serving.output, log_folder(job.serving), recent, appeals, rounds, monitored)
    try:
        before, left = forget(places, digests)
    finally:
        recent.close()
        state.close()
    for name, found in (("found", before), ("left", left)):
        print(
            f"{name}: {found.archive} rows of the archive, {found.segments} and {found.open_segments} lines of "
            f"sealed and open segments, {found.recent} recent answers, {found.appeals} appeals, "
            f"{found.monitored} rows of monitored days, {found.relabelled} relabelled or labelled events"
        )
    if others:
        print(f"not searched: what {others} other keys wrote to the archive; run this with each of them as well")
    if rounds.passed_over:
        print(f"not searched: {len(rounds.passed_over)} files of other forms, such as {min(rounds.passed_over)}")
    if monitored.damaged:
        raise RuntimeError(
            f"{len(monitored.damaged)} files of monitored days cannot be read, nobody can say whom they hold: remove "
            f"the folder of {min(monitored.damaged)}, which the monitor makes again, and run this again"
        )
    if left.rows:
        raise RuntimeError(f"{left.rows} rows are left; run this again when the open segments are sealed")


if __name__ == "__main__":
    run_job(main, ForgetJob, defaults=Path(__file__).with_suffix(".toml"))
