"""The mark that takes a service out of the balancer."""

from __future__ import annotations

from pathlib import Path

import pytest

from cancellation.serving.places import begin_draining, end_draining, is_draining
from cancellation.serving.settings import ServingSettings


def test_a_disk_that_takes_no_mark_is_told_of_and_keeps_no_service_from_ending(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = ServingSettings(data_dir=str(tmp_path / "gone"), service_name="8000")
    begin_draining(settings)
    assert "draining.8000: cannot be made (No such file or directory)" in caplog.text
    end_draining(settings)
    (tmp_path / "gone").mkdir()
    begin_draining(settings)
    assert is_draining(settings)
    end_draining(settings)
    assert not is_draining(settings)
