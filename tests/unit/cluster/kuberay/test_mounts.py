"""ConfigMaps and Secrets as Kubernetes mounts them: read-only, changed by swapping one link, nothing written beside."""

from __future__ import annotations

from pathlib import Path

import pytest

from cancellation.serving.http.tokens import TokenStore, Unauthorized
from cancellation.serving.places import ledger_path, policy_path, tokens_path
from cancellation.serving.rollout.policy_sources import PolicyFiles
from cancellation.serving.rollout.policy_store import PolicyStore
from cancellation.serving.settings import RolloutSettings, ServingSettings
from tests.conftest import PROJECT

POLICY = (PROJECT / "cancellation" / "decision" / "policy.toml").read_text(encoding="utf-8")


class Mount:
    """A folder of links to `..data/NAME`, where `..data` is a link to the folder of the version in force."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._versions = 0
        folder.mkdir()

    def show(self, files: dict[str, str]) -> None:
        """Bring another version of all files into view at once, as the kubelet does."""
        self._versions += 1
        version = self.folder / f"..version-{self._versions}"
        version.mkdir()
        for name, text in files.items():
            (version / name).write_text(text, encoding="utf-8")
            (version / name).chmod(0o440)
        following = self.folder / "..data_tmp"
        following.symlink_to(version.name)
        following.rename(self.folder / "..data")
        for name in files:
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(f"..data/{name}")
        for path in self.folder.iterdir():
            if path.is_symlink() and not path.name.startswith("..") and path.name not in files:
                path.unlink()

    def state(self) -> dict[str, int]:
        """Everything below the folder, with the time of its last change."""
        return {str(path): path.lstat().st_mtime_ns for path in (self.folder, *self.folder.rglob("*"))}


@pytest.fixture
def mount(tmp_path: Path) -> Mount:
    return Mount(tmp_path / "mounted")


def test_policy_and_kill_switch_are_obeyed_and_nothing_is_written_beside_them(mount: Mount, tmp_path: Path) -> None:
    mount.show({"policy.toml": POLICY})
    settings = ServingSettings(
        data_dir=str(tmp_path / "data"), rollout=RolloutSettings(policy=str(mount.folder / "policy.toml"))
    )
    before = mount.state()
    store = PolicyStore(PolicyFiles(policy_path(settings), ledger_path(settings)))
    assert mount.state() == before
    assert store.killed == frozenset()

    mount.show({"policy.toml": POLICY, "policy.toml.kill": "BR\n"})
    before = mount.state()
    assert store.reload_if_changed()
    assert store.killed == {"BR"}
    assert store.market("BR").state == "off"
    assert mount.state() == before

    mount.show({"policy.toml": POLICY})
    assert store.reload_if_changed()
    assert store.killed == frozenset()


def test_tokens_are_read_anew_and_nothing_is_written_beside_them(mount: Mount, tmp_path: Path) -> None:
    old, new = "old-token-of-a-caller-0001", "new-token-of-a-caller-0002"
    mount.show({"verdicts_tokens": f"{old} verdict\n"})
    settings = ServingSettings(data_dir=str(tmp_path / "data"), tokens_file=str(mount.folder / "verdicts_tokens"))
    before = mount.state()
    tokens = TokenStore.load(tokens_path(settings))
    assert tokens.check(f"Bearer {old}", "verdict")
    mount.show({"verdicts_tokens": f"{new} verdict\n"})
    after = mount.state()
    assert tokens.reload_if_changed()
    assert tokens.check(f"Bearer {new}", "verdict")
    with pytest.raises(Unauthorized):
        tokens.check(f"Bearer {old}", "verdict")
    assert mount.state() == after
    assert before.keys() < after.keys()
