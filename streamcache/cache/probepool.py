"""Threads for probes of something that may be dead: one, and another when a probe never returns.

A call into a mount that was taken away while its server was dead comes back never, and what is
mounted there now may be well: so a probe is given up after a while, and the next one has a thread
of its own. There are few of them: if as many hang, nothing is asked until one is back.

Threads: as ``workers.py`` says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from streamcache.cache.workers import WorkerPool

MOST: Final = 4  # threads

T = TypeVar("T")


class ProbePool(WorkerPool):
    """Runs one probe at a time, beside those that were given up."""

    def __init__(self, name: str) -> None:
        super().__init__(name, size=MOST)

    def run(
        self,
        function: Callable[..., T],
        *args: Any,
        timeout: float,
        discard: Callable[[T], object] | None = None,
    ) -> T:
        """Run a probe, which is given up after ``timeout`` s. Switches.

        TimeoutError then, and at once while an earlier one is not given up or all threads hang.
        Else as ``call``.
        """
        if self.pending > self.stuck(timeout):
            raise TimeoutError(f"{self.name}: an earlier one is under way")
        if self.pending >= self.size:
            raise TimeoutError(f"{self.name}: {self.pending} earlier ones hang")
        return self.call(function, *args, timeout=timeout, discard=discard)
