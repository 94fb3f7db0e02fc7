"""Policy and kill switch in a folder that is swapped whole, as a mounted ConfigMap is: they go together."""

from __future__ import annotations

import threading
from pathlib import Path

from cancellation.serving.rollout.policy_sources import PolicyFiles

SWAPS = 3000


def test_a_policy_is_never_seen_with_the_kill_switch_of_another_folder(tmp_path: Path) -> None:
    def put(number: int) -> None:
        """Of every second policy BR is killed."""
        folder = tmp_path / f"..{number}"
        folder.mkdir()
        (folder / "policy.toml").write_text(f"{number}")
        if number % 2:
            (folder / "policy.toml.kill").write_text("BR")
        (tmp_path / "new").symlink_to(folder.name)
        (tmp_path / "new").replace(tmp_path / "..data")

    put(0)
    files = PolicyFiles(tmp_path / "..data" / "policy.toml", tmp_path / "ledger.jsonl")
    swapping = threading.Thread(target=lambda: [put(number) for number in range(1, SWAPS)])
    swapping.start()
    seen: set[tuple[bool, str | None]] = set()
    try:
        while swapping.is_alive():
            found = files.read()
            assert found.policy is not None
            seen.add((bool(int(found.policy) % 2), found.kill_switch))
    finally:
        swapping.join()
    assert (True, "") not in seen, "a market that was never without its kill switch would have been let loose"
    assert {(True, "BR"), (False, "")} <= seen
