"""The endpoint's settings; each section goes to the part that it is named after."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, field_validator, model_validator

from cancellation.llm.prompt import PromptSettings
from cancellation.model.verdict_model import Device, Dtype
from cancellation.serving.appeals.settings import AppealSettings
from cancellation.serving.observability.traces import TraceSettings
from cancellation.serving.records.decision_log import DecisionLogSettings
from cancellation.serving.records.log_shipping import ShipperSettings
from cluster.database.interface import check_address
from cluster.endpoint.settings import EndpointSettings
from cluster.models.files import ModelName
from cluster.places import CachePath, InputUrl, OutputPath, Place, look_at_output
from cluster.settings import Settings


class LimitSettings(Settings):
    """What a request may be, before anything of it is parsed."""

    body_bytes: int = Field(default=2**20, ge=1024, le=2**26)
    """Largest body of one event; a typical one has 3 kB."""

    batch_body_bytes: int = Field(default=2**22, ge=1024, le=2**28)
    """Largest body of a batch."""

    batch_events: int = Field(default=256, ge=1, le=4096)
    """Most events of one batch."""

    body_seconds: float = Field(default=5.0, gt=0)
    """A body has to be there so long after its header, and `body_bytes_per_second` buy a second more: who stops in the
    middle of one is answered with 408."""

    body_bytes_per_second: int = Field(default=2**16, ge=1)
    """Slowest pace of a body beyond `body_seconds`."""

    inline_bytes: int = Field(default=2**15, ge=0)
    """Larger bodies are parsed and encoded in a lane of their own, one after the other, so that a hostile text
    of a megabyte, which takes a second to clean, delays no one but its own kind."""


class DeadlineSettings(Settings):
    """How long a caller waits, from the last byte of the body on. `X-Deadline-Ms` overrides the defaults."""

    default_ms: float = Field(default=1000.0, gt=0)
    batch_ms: float = Field(default=10_000.0, gt=0)
    explain_ms: float = Field(default=30_000.0, gt=0)
    max_ms: float = Field(default=30_000.0, gt=0)
    """A longer deadline is cut to this; `gateways.drain_seconds` has to have room for it."""

    model_ms: float = Field(default=300.0, gt=0)
    """The model gets at most this much of it: a hundred times what it needs, more waiting seldom helps."""

    reserve_ms: float = Field(default=15.0, ge=0)
    """Kept back of each deadline for the rules' verdict and for writing it down, should the model be late."""


class AdmissionSettings(Settings):
    """When a request is refused with 429 before any work is put into it."""

    max_queue_age_ms: float = Field(default=50.0, gt=0)
    """Refuse while the oldest event has waited this long before the model."""

    standing_queue_age_ms: float = Field(default=15.0, gt=0)
    """Once the oldest event has never waited less than this for `standing_ms`, refuse whenever it waits longer, until
    it has not for as long: a queue that stays is no hiccup of the machine but more work than there is time for."""

    standing_ms: float = Field(default=500.0, gt=0)

    max_loop_lag_ms: float = Field(default=20.0, gt=0)
    """Refuse while work that is ready to run has waited this long in the gateway's event loop."""

    max_ongoing: int = Field(default=24, ge=1)
    """Requests for one verdict that a gateway replica works on at a time: what it answers in a tenth of a second, since
    whoever is let in waits for all who are inside. Raise it with `model.calls`."""

    max_batches: int = Field(default=4, ge=1)
    """Requests for a batch that it works on at a time."""

    max_explanations: int = Field(default=4, ge=1)
    """Explanations by a language model under way at a time: each holds a thread, and the endpoint a request."""

    max_reading: int = Field(default=512, ge=1)
    """Requests whose bodies are on their way at a time. They take no place of those above: a caller who stops in the
    middle of a body keeps nobody from being answered."""

    retry_after_seconds: int = Field(default=1, ge=1)


class ModelSettings(Settings):
    """Weights, and how they are run."""

    source: ModelName = "cancellation/small_model"
    """Exported model: folder, s3:// folder, or models:/cancellation@champion of MLflow."""

    digest: str | None = None
    """Digest that the files must have, as the model's version ends in (`small@1a2b3c4d`); null takes what is there."""

    pin: str | None = None
    """Content that `source` stood for when the application was built, as `cluster.models.files` names it: a replica
    that finds other content does not start, and a new pin makes Serve replace the replicas one after the other."""

    cache_dir: CachePath = "~/.cache/marketplace-llm"
    """Where each machine keeps remote models, and copies of those that are served from a folder."""

    registry_uri: str | None = None
    """Address of the MLflow registry; null: MLFLOW_TRACKING_URI."""

    device: Device = "cpu"
    """`cuda` runs the weights of the model's `trained/` folder on the GPU of `models.num_gpus`. It pays for encoders of
    full size: the small one answers one event sooner on a core."""

    dtype: Dtype = "float16"
    """Of matrix products on a GPU; `bfloat16` where an encoder leaves float16's range, which stops it at its start.
    It is part of the model's version: thresholds have to be proven with the one that serves."""

    num_threads: int = Field(default=1, ge=1)
    """Cores of one call of the model, on a CPU."""

    calls: int = Field(default=2, ge=1, le=64)
    """Calls at a time: on a CPU as many as there are cores, as a call leaves the others idle; on a GPU 1 or 2."""

    niceness: int = Field(default=5, ge=0, le=19)
    """Of the threads that compute: above 0 the event loop goes first, so that a refusal does not wait for a verdict,
    but so does everything else on the machine. 0 where the model's machine has other work."""

    batch_tokens: int = Field(default=160, ge=32)
    """Padded tokens of one call. On a CPU events together take as long as one after the other, all wait for the last,
    and a core that is free stays so: one event a call is fast. On a GPU 16384."""

    bulk_tokens: int = Field(default=320, ge=32)
    """The same for work that nobody waits for (batches, shadow markets, explanations): a live event that comes
    in meanwhile waits for one such call at most."""

    max_queue: int = Field(default=256, ge=1)
    """Live events that may wait; more are turned away, and the rules answer."""

    hung_seconds: float = Field(default=1.0, gt=0)
    """A call of the model that takes longer counts as hung: the rules answer until it comes back. A call that is only
    slow answers those who can wait for it; the others' deadlines pass and the rules answer them."""


class RetrySettings(Settings):
    """Second attempts at the model, where it runs apart from the gateway."""

    budget_fraction: float = Field(default=0.1, ge=0, le=1)
    """Second attempts per first one, so that a dying model is not killed by its clients' insistence."""

    min_left_ms: float = Field(default=20.0, ge=0)
    """No second attempt with less time left than this."""

    breaker_failures: int = Field(default=5, ge=1)
    """Failures in a row after which the rules answer at once."""

    breaker_seconds: float = Field(default=1.0, gt=0)
    """For this long; then one request tries the model again."""


class ShadowSettings(Settings):
    """Another version that gets copies of the traffic and is never felt."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,40}$")
    """Names its deployment and stands in the log and the metrics."""

    source: str = "rules"
    """Exported model as in `model.source`, or `rules` for v1."""

    digest: str | None = None
    """As `model.digest`."""

    share: float = Field(default=0.1, ge=0, le=1)
    """Of the events, chosen by their id."""

    max_queue: int = Field(default=64, ge=1)
    """Copies that may wait; more are dropped and counted."""

    batch_events: int = Field(default=16, ge=1)
    """Copies that go to the shadow in one call; they gather for a tenth of a second."""

    concurrency: int = Field(default=2, ge=1)
    """Calls under way at a time."""

    timeout_seconds: float = Field(default=2.0, gt=0)
    """Copies whose call takes longer are lost."""

    num_gpus: float | None = Field(default=None, gt=0)
    """GPUs of its own where `model.device` is `cuda`; null: as many as a replica of the live model has."""


class RolloutSettings(Settings):
    """The policy and where its changes are written down."""

    policy: InputUrl | None = None
    """Policy file; null: a copy of the one that ships, in `data_dir`. A `database` takes its first policy from it."""

    poll_seconds: float = Field(default=1.0, gt=0, le=5)
    """Between looks at the policy file and the kill switch."""


class ExplainSettings(Settings):
    """The language model that explains events to reviewers: a server of its own, so that it takes nothing from here."""

    endpoint: EndpointSettings
    """`vllm serve`, or a hosted model. It gets events redacted. `budget_usd` is of one replica since its start."""

    prompt: PromptSettings = PromptSettings()
    max_tokens: int = Field(default=220, ge=160)
    """Of an answer."""

    temperature: float = Field(default=1.0, gt=0)
    """Divides the verdict's log-probabilities: what `jobs.cancellation_calibrate model=null` found for this model."""


class ReplicaSettings(Settings):
    """How many replicas, and what each may take."""

    min: int = Field(default=1, ge=1)
    max: int = Field(default=1, ge=1)
    num_cpus: float = Field(default=1.0, ge=0)
    num_gpus: float = Field(default=0.0, ge=0)
    target_ongoing: float = Field(default=8.0, gt=0)
    """Requests at a time per replica that the autoscaler aims at."""

    target_cpu_fraction: float = Field(default=0.7, gt=0, le=1)
    """Share of its cores that a gateway replica should be busy with (gateways only)."""

    look_back_seconds: float = Field(default=15.0, gt=0)
    """Load is averaged over this time before it is compared with the targets."""

    upscale_seconds: float = Field(default=10.0, ge=0)
    """Replicas are added when so long more of them were wanted: soon, as meanwhile callers are refused."""

    downscale_seconds: float = Field(default=300.0, ge=0)
    """Replicas are taken away when so long fewer of them were wanted."""

    drain_seconds: float = Field(default=50.0, gt=0)
    """A replica that stops gets this long to answer what it has begun, to ship its log and to end; then it is killed. A
    pod's terminationGracePeriodSeconds has to be more."""


class ServingSettings(Settings):
    """The whole application."""

    # An address that is refused for the password in it must not be quoted in a log.
    model_config = ConfigDict(hide_input_in_errors=True)

    colocated: bool = True
    """Gateway and model in one process: on one machine with a small model the hop costs more than it gives.
    false where the model runs on GPUs."""

    data_dir: OutputPath = "var/serving"
    """Local disk for what is written ahead: decisions, recent answers, the policy's ledger."""

    database: str | None = None
    """PostgreSQL database that several machines share, as postgresql://user@host:5432/name: for recent answers,
    feedback already seen, appeals, policy, kill switch and ledger. Its password comes from PGPASSFILE, ~/.pgpass or
    PGPASSWORD. null: files in `data_dir`, for one machine."""

    service_name: str = Field(default="serve", pattern=r"^[A-Za-z0-9_-]+$")
    """Tells services apart that share `data_dir`: `draining.<service_name>` there takes this one out of the balancer.
    jobs.cancellation_serve puts its port here."""

    output: Annotated[str, Place("ships to", look_at_output)] | None = "var/serving/archive"
    """Where decisions are shipped: a folder, or s3://bucket/prefix; verdicts are given while it is away too. null:
    another process ships them."""

    tokens_file: str | None = None
    """File of tokens and scopes; null makes one in `data_dir`."""

    person_key_file: str | None = None
    """File of the key of the digests by which orders, sellers and buyers stand in what is logged, the same on all
    machines; null makes one in `data_dir`. Without it nobody can be found there, to be forgotten or for an appeal."""

    log_events: str = Field(default="redacted", pattern="^(redacted|reference|full)$")
    """How chats stand in the decision log: redacted, by digest only, or as they came."""

    retention_hours: float = Field(default=24.0, gt=0)
    """How long a decision can be asked for, and a repeated event gets its first answer."""

    max_recent: int | None = Field(default=None, ge=1)
    """Decisions kept for that at most, where the disk cannot hold all of `retention_hours`, at about 2 kB each; the
    oldest then go before their time. null: none does."""

    open_docs: bool = False
    """Show the OpenAPI page to callers without a token."""

    limits: LimitSettings = LimitSettings()
    deadlines: DeadlineSettings = DeadlineSettings()
    admission: AdmissionSettings = AdmissionSettings()
    model: ModelSettings = ModelSettings()
    retry: RetrySettings = RetrySettings()
    rollout: RolloutSettings = RolloutSettings()
    decision_log: DecisionLogSettings = DecisionLogSettings()
    shipper: ShipperSettings = ShipperSettings()

    explain: ExplainSettings | None = None
    """null: there is no `POST /v1/verdicts:explain`."""

    appeals: AppealSettings = AppealSettings()
    traces: TraceSettings = TraceSettings()
    gateways: ReplicaSettings = ReplicaSettings()
    models: ReplicaSettings = ReplicaSettings()
    """Used where the model runs apart."""

    shadows: tuple[ShadowSettings, ...] = ()

    @property
    def num_gpus(self) -> float:
        """Of each replica that holds the live model; 0.0 where it runs on a CPU."""
        return (self.gateways if self.colocated else self.models).num_gpus if self.model.device == "cuda" else 0.0

    @model_validator(mode="after")
    def _gpus_for_the_device(self) -> ServingSettings:
        if self.model.device == "cuda" and not self.num_gpus:
            where = "gateways" if self.colocated else "models"
            raise ValueError(f"model.device cuda: expected GPUs in {where}.num_gpus, found none; set it to 1")
        return self

    @model_validator(mode="after")
    def _policy_where_it_is_watched(self) -> ServingSettings:
        policy = self.rollout.policy
        if self.database is None and policy is not None and "://" in policy:
            raise ValueError(
                f"rollout.policy {policy}: without a database the file is watched, and so expected on this machine's "
                "disk; copy it there, or name a database, which takes its first policy from anywhere"
            )
        return self

    @field_validator("database")
    @classmethod
    def _without_password(cls, value: str | None) -> str | None:
        if value is not None:
            check_address(value)
        return value
