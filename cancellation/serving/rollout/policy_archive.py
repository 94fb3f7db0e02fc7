"""Every policy that was in force, put beside the decisions that rest on it; also if the archive was away meanwhile."""

from __future__ import annotations

import logging

from cancellation.decision.policy import PolicyError, read_policy
from cancellation.serving.records.shipped_log import policy_url
from cancellation.serving.rollout.policy_sources import PolicySource
from cluster.storage import create_exclusive

logger = logging.getLogger(__name__)


class PolicyArchive:
    """Ships what a source has kept; what could not be shipped goes with the next call, or the next start."""

    def __init__(self, source: PolicySource, output: str) -> None:
        self._source = source
        self._output = output
        self._shipped: set[str] = set()

    def ship(self, digest: str) -> None:
        """Ship all policies that were accepted, unless that was done since the one of this digest was.

        Raises:
            OSError: If they cannot be read or written.
        """
        if digest in self._shipped:
            return
        for one in [*(kept for kept in self._source.kept() if kept != digest), digest]:
            content = None if one in self._shipped else self._source.content(one)
            if content is not None:
                self._create(content)
            self._shipped.add(one)

    def _create(self, content: bytes) -> None:
        try:
            version = read_policy(content, self._source.place).version
        except PolicyError as error:  # accepted by a former version of the project, which shipped it
            logger.warning("a policy of before is not shipped: %s", error)
            return
        create_exclusive(policy_url(self._output, version), content)
