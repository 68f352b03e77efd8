"""What is wrong, said at once and counted at the end."""

from __future__ import annotations

import sys
import time

MOST = 50  # that are said: a broken run would say the same a million times


class Findings:
    """Each in words. Falsy as long as nothing was found."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.count = 0
        self._begun = time.monotonic()

    def __bool__(self) -> bool:
        return bool(self.count)

    def add(self, text: str) -> None:
        """One more."""
        self.count += 1
        if self.count <= MOST:
            self.found.append(text)
            print(f"FOUND after {time.monotonic() - self._begun:.1f} s: {text}", file=sys.stderr)
