import logging
import shutil
import socket
import sys
from pathlib import Path

import pytest
from pydantic import Field, SecretStr

from cluster.provenance import collect_provenance, hide_credentials, public_settings
from cluster.settings import Settings
from cluster.tracking import TrackedRun, TrackingSettings, tracked_run, tracking_uri


class Inner(Settings):
    names: tuple[str, ...] = ("a", "b")
    token: SecretStr = SecretStr("hush")


class Job(Settings):
    url: str = "https://user:secret@host/path"  # pragma: allowlist secret
    long: str = "x" * 7000
    nothing: str | None = None
    rate: float = Field(default=0.5)
    inner: Inner = Inner()


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TrackingSettings:
    """One database for all: making its tables takes seconds."""
    return TrackingSettings(uri=f"sqlite:///{tmp_path_factory.mktemp('tracking')}/mlflow.db")


def folder_of(settings: TrackingSettings) -> Path:
    return Path(settings.uri.removeprefix("sqlite:///")).parent


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> str:
    """An address on which nobody listens, and no patience."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return f"http://user:secret@127.0.0.1:{port}"  # pragma: allowlist secret


def stored(settings: TrackingSettings, run: TrackedRun):
    from mlflow import MlflowClient

    assert run.run_id is not None
    return MlflowClient(tracking_uri=settings.uri).get_run(run.run_id)


def test_a_run_holds_settings_figures_tags_and_files(settings: TrackingSettings) -> None:
    from matplotlib.figure import Figure

    with tracked_run("some_job", Job(), settings) as run:
        run.metrics({"rows": 12, "mass": 0.5, "unmeasured": None})
        run.metrics({"loss": 2.0}, step=1)
        run.metrics({"loss": 1.0}, step=2)
        run.tags({"day": "ds=1", "mlflow.runName": "the day"})
        run.params({"found": {"files": 3}})
        run.artifact("deep/run.json", b"{}")
        run.figure("plots/a.png", Figure())
        assert stored(settings, run).info.status == "RUNNING"
    found = stored(settings, run)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "the day"
    assert found.data.metrics == {"rows": 12.0, "mass": 0.5, "loss": 1.0}
    assert found.data.params["found.files"] == "3"
    assert found.data.params["inner.names"] == '["a", "b"]'
    assert found.data.params["rate"] == "0.5"
    assert found.data.params["nothing"] == "null"
    assert len(found.data.params["long"]) == 6000
    assert found.data.tags["day"] == "ds=1"
    assert found.data.tags["version.python"] == sys.version.split()[0]
    assert int(found.data.tags["hardware.cpu_cores"]) >= 1
    (folder,) = (folder_of(settings) / "mlartifacts").glob(f"some_job/{run.run_id}/artifacts")
    assert (folder / "deep/run.json").read_bytes() == b"{}"
    assert (folder / "plots/a.png").read_bytes().startswith(b"\x89PNG")
    assert run.where.startswith(f"mlflow ui --backend-store-uri {settings.uri}, then http://127.0.0.1:5000/#/exp")
    assert run.where.endswith(f"/runs/{run.run_id}")


def test_no_secret_is_recorded(settings: TrackingSettings) -> None:
    with tracked_run("some_job", Job(), settings) as run:
        pass
    params = stored(settings, run).data.params
    assert params["url"] == "https://***@host/path"
    assert "hush" not in str(params)
    assert "secret" not in str(params)
    assert public_settings(Job())["url"] == "https://***@host/path"
    assert hide_credentials("at s3://k:v@h/p and http://h/p@x") == "at s3://***@h/p and http://h/p@x"


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("a user's text"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_a_failed_job_is_a_failed_run_without_its_message(
    settings: TrackingSettings, error: BaseException, status: str
) -> None:
    with pytest.raises(type(error)), tracked_run("some_job", Job(), settings) as run:
        raise error
    found = stored(settings, run)
    assert found.info.status == status
    assert found.data.tags["error"] == type(error).__name__
    assert "user's text" not in str(found.to_dictionary())


def test_more_records_than_one_request_takes(settings: TrackingSettings) -> None:
    with tracked_run("some_job", Job(), settings) as run:
        run.params({f"p{index}": index for index in range(250)})
    assert {f"p{index}" for index in range(250)} <= stored(settings, run).data.params.keys()


def test_a_server_that_stays_away_costs_two_warnings_and_nothing_else(
    no_server: str, caplog: pytest.LogCaptureFixture
) -> None:
    with tracked_run("some_job", Job(), TrackingSettings(uri=no_server)) as run:
        run.metrics({"rows": 1})
        run.artifact("run.json", b"{}")
    first, last = [record.getMessage() for record in caplog.records if record.name == "cluster.tracking"]
    assert "cannot be reached" in first
    assert "a last attempt follows when the job ends" in first
    assert "records of this run were not delivered" in last
    assert "the files beside the job's output have them all" in last
    assert run.where.startswith("not tracked so far: ConnectionRefusedError: ")
    assert "secret" not in first + last + run.where


def test_what_an_outage_held_back_is_delivered_at_the_end(
    settings: TrackingSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A database that cannot be opened at first stands for any server that comes back."""
    with tracked_run("some_job", Job(), settings):
        pass
    folder = tmp_path / "store"
    folder.write_text("in the way")
    later = TrackingSettings(uri=f"sqlite:///{folder}/mlflow.db")
    with tracked_run("some_job", Job(), later) as run:
        run.metrics({"rows": 7})
        assert run.run_id is None
        folder.unlink()
        folder.mkdir()
        shutil.copy(folder_of(settings) / "mlflow.db", folder)
    found = stored(later, run)
    assert found.info.status == "FINISHED"
    assert found.data.metrics == {"rows": 7.0}
    assert found.data.params["rate"] == "0.5"
    assert [record.levelno for record in caplog.records if record.name == "cluster.tracking"] == [logging.WARNING]


def test_a_file_that_cannot_be_stored_keeps_nothing_else_back(settings: TrackingSettings) -> None:
    (folder_of(settings) / "mlartifacts").mkdir(exist_ok=True)
    (folder_of(settings) / "mlartifacts" / "blocked").write_text("in the way")
    with tracked_run("blocked", Job(), settings) as run:
        run.artifact("report.html", b"x")
        run.metrics({"rows": 7})
    found = stored(settings, run)
    assert found.info.status == "FINISHED"
    assert found.data.metrics == {"rows": 7.0}


def test_where_to_record_is_looked_up_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri() == f"sqlite:///{tmp_path}/var/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking")
    assert tracking_uri() == "http://tracking"
    assert tracking_uri("postgresql://db/runs") == "postgresql://db/runs"
    with pytest.raises(ValueError, match="should match pattern"):
        TrackingSettings(uri="s3://bucket/runs")


def test_provenance_names_code_packages_and_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_COMMIT", "abc123")
    found = collect_provenance()
    assert found.commit == "abc123"
    assert found.versions["mlflow"].startswith("3.")
    assert found.hardware["memory_gib"] > 0
