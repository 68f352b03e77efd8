"""How fast copies are, in this worker: averages over the last seconds."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from streamcache.stats import SessionStatistics

_OVER: Final = 5.0  # s


class Rates:
    """Looked at once a second."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[tuple[float, int]]] = {}  # by path: (s, bytes that came)

    def look(self, now: float, sessions: Iterable[SessionStatistics]) -> None:
        """Remember how far each is at ``now``, s of a clock that does not jump."""
        seen: dict[str, deque[tuple[float, int]]] = {}
        for session in sessions:
            points = self._seen.get(session.path, deque())
            came = session.present - session.resumed
            if points and points[-1][1] > came:
                points = deque()  # another version
            points.append((now, came))
            while now - points[0][0] > _OVER:
                points.popleft()
            seen[session.path] = points
        self._seen = seen

    def of(self, path: str) -> float:
        """Bytes a second; 0 if it was not seen twice."""
        points = self._seen.get(path)
        if points is None or len(points) < 2:
            return 0.0
        (begun, before), (ended, after) = points[0], points[-1]
        return (after - before) / max(ended - begun, 1e-6)
