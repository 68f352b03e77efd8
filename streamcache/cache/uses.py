"""What counts as a use of a file: one of each client within a time, however often it asks. PURE."""

from __future__ import annotations

from typing import Final

_REMEMBERED: Final = 200_000  # pairs of client and file


class Uses:
    """Counts a client's reads of a file once in ``interval`` s, from the last that counted."""

    def __init__(self, interval: float) -> None:
        self.interval = interval  # s; see ``cache.touch_interval``
        self._recent: dict[tuple[str, str | int], float] = {}  # (client, file) -> s, oldest first

    def __repr__(self) -> str:
        return f"<Uses interval={self.interval:g} remembered={len(self._recent)}>"

    def counts(self, client: str, file: str | int, now: float) -> bool:
        """Whether this one is a use: ``client`` reads ``file`` at ``now``, in s of any clock."""
        pair = (client, file)
        last = self._recent.get(pair)
        if last is not None and now - last < self.interval:
            return False
        if len(self._recent) >= _REMEMBERED:
            for old in list(self._recent)[: _REMEMBERED // 10]:
                del self._recent[old]
        self._recent.pop(pair, None)
        self._recent[pair] = now
        return True
