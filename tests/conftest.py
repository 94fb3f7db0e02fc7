"""Servers that tests share: an S3 API, a local Ray."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.builders.tiny_models import save_tiny_model
from tests.servers.postgres import PostgresServer
from tests.servers.s3 import S3Server

PROJECT = Path(__file__).resolve().parent.parent
SHARED_DATA = PROJECT.parent / "shared" / "data"
SHARED_CASES = PROJECT.parent / "shared" / "cases"
"""Real and reviewed data beside the project; tests that need it skip where it is not at hand."""

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def _own_tracking_store(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Runs of tests stay out of the working directory's MLflow store."""
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "true"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    server = S3Server()
    os.environ.update(server.environment())  # before Ray starts: its workers inherit the address
    yield server
    server.stop()


@pytest.fixture
def bucket(s3_server: S3Server, request: pytest.FixtureRequest) -> str:
    """An empty bucket of the test's own, as s3://name."""
    import re

    import s3fs

    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:50].strip("-") + f"-{os.urandom(3).hex()}"
    s3fs.S3FileSystem(endpoint_url=s3_server.url).mkdir(name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def local_ray(s3_server: S3Server) -> Iterator[str]:
    """A local Ray of two cores; its address, for drivers in processes of their own.

    Each file has its own: an actor that one file left behind would keep the two workers of another waiting.
    """
    import ray

    from cluster.session import SessionSettings, ray_session

    os.environ["PYTHONPATH"] = str(PROJECT)  # workers unpickle the tests' own engines
    with ray_session(SessionSettings(num_cpus=2, object_store_gib=0.3)):
        yield ray.get_runtime_context().gcs_address


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama with tokeniser and prompt."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def browser() -> str:
    """`.ci/install-browser` brings one; without any the test fails, it does not skip."""
    names = (os.environ.get("BROWSER_PATH", ""), "chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    assert found, "no chromium or chrome: run .ci/install-browser, or set BROWSER_PATH"
    return found
