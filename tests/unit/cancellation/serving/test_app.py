"""The application as it is handed to Ray Serve, without a Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve._private.build_app import build_app
from ray.serve.schema import ServeDeploySchema

from cancellation.serving.app import build
from cancellation.serving.records.archive import LAST_SHIPMENT_SECONDS
from cancellation.serving.settings import ModelSettings, ServingSettings
from cluster.places import require_places
from cluster.serving.autoscaling import CpuAndRequests
from cluster.serving.service import ServiceSettings
from tests.conftest import PROJECT
from tests.servers.s3 import S3Server
from tests.servers.serving_process import copy_model, rename_model


def deployments(**settings: Any) -> dict[str, Any]:
    built = build_app(build(settings), name="cancellation", default_runtime_env={})
    return {deployment.name: deployment for deployment in built.deployments}


def test_on_one_machine_gateway_and_model_share_a_replica() -> None:
    assert set(deployments(colocated=True)) == {"gateway"}


def test_elsewhere_every_version_of_a_model_is_a_deployment_of_its_own() -> None:
    shadows = [{"name": "next", "source": "cancellation/small_model"}, {"name": "v1", "source": "rules"}]
    found = deployments(colocated=False, shadows=shadows)
    assert set(found) == {"gateway", "model", "shadow-next"}
    for deployment in found.values():
        assert deployment._deployment_config.max_surge_percent == 100


def test_a_policy_that_nobody_can_watch_is_refused_unless_a_database_takes_it() -> None:
    rollout = {"policy": "s3://bucket/policy.toml"}
    with pytest.raises(ValueError, match=r"rollout\.policy s3://.*policy\.toml: .* on this machine's disk"):
        ServingSettings(rollout=rollout)
    assert ServingSettings(rollout=rollout, database="postgresql://host/verdicts").rollout.policy == rollout["policy"]
    with pytest.raises(ValueError, match="data_dir"):
        ServingSettings(data_dir="s3://bucket/serving")


def test_an_endpoint_starts_while_its_archive_cannot_be_written_to(s3_server: S3Server, tmp_path: Path) -> None:
    """What it decides waits on its disk; what it works in has to be there."""
    require_places(ServingSettings(output="s3://no-such-bucket/archive", data_dir=str(tmp_path)))
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"data_dir=.*: .*/file cannot be written to"):
        require_places(ServingSettings(data_dir=str(tmp_path / "file" / "data")))


def test_gateways_scale_by_processor_and_requests_models_by_requests() -> None:
    replicas = {"min": 2, "max": 6}
    found = deployments(colocated=False, gateways={**replicas, "target_cpu_fraction": 0.5}, models=replicas)
    policy = found["gateway"]._deployment_config.autoscaling_config.policy
    assert policy.get_policy() is CpuAndRequests
    assert policy.policy_kwargs == {"target_cpu_fraction": 0.5}
    assert found["model"]._deployment_config.autoscaling_config.max_replicas == 6


def test_all_replicas_run_what_the_models_name_stood_for_when_the_application_was_built(tmp_path: Path) -> None:
    folder = copy_model(tmp_path, "live")

    def pins() -> tuple[str | None, str | None]:
        found = deployments(colocated=False, model={"source": str(folder)})
        gateway = ServingSettings.model_validate_json(found["gateway"].init_args[0])
        return gateway.model.pin, ModelSettings.model_validate_json(found["model"].init_args[0]).pin

    first = pins()
    assert first[0] == first[1]
    assert first[0] is not None
    rename_model(folder, "better")
    assert pins()[0] not in first


def test_a_misspelt_setting_is_refused() -> None:
    with pytest.raises(ValueError, match="colocatd"):
        build({"colocatd": True})


def test_a_password_in_the_databases_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="PGPASSFILE") as refused:
        build({"database": "postgresql://verdicts:secret-1@db/verdicts"})  # pragma: allowlist secret
    assert "secret-1" not in str(refused.value)


def test_the_cluster_config_fits_ray_and_the_settings() -> None:
    config = ServeDeploySchema.model_validate(
        yaml.safe_load((PROJECT / "cluster" / "serving" / "serve.yaml").read_text())
    )
    (application,) = config.applications
    assert application.import_path == "cancellation.serving.app:build"
    settings = ServingSettings.model_validate(application.args)
    assert not settings.colocated
    assert not settings.open_docs
    assert config.http_options.request_timeout_s > settings.deadlines.max_ms / 1e3 + settings.limits.body_seconds


def test_a_replica_that_stops_has_time_for_its_slowest_answer_and_its_last_shipment() -> None:
    settings, service = ServingSettings(), ServiceSettings()
    slowest = settings.limits.body_seconds + settings.deadlines.max_ms / 1e3
    assert settings.gateways.drain_seconds > service.drain_seconds + slowest + LAST_SHIPMENT_SECONDS
    assert service.request_timeout_seconds > slowest
