"""Buffers that a source is read into. Hub's thread; one that is taken is a worker's to fill."""

from __future__ import annotations

from typing import Final

_SMALLEST: Final = 64 * 1024  # bytes
_KEPT: Final = 32 * 1024 * 1024  # bytes


class Buffers:
    """Buffers that are used again: a fresh megabyte costs three times as much (page faults)."""

    def __init__(self) -> None:
        self._free: dict[int, list[bytearray]] = {}
        self._kept = 0

    def take(self, length: int) -> bytearray:
        """One that holds ``length`` bytes, until it is given back."""
        size = 1 << max(length - 1, _SMALLEST - 1).bit_length()
        for there in sorted(self._free):
            if there >= size and self._free[there]:
                self._kept -= there
                return self._free[there].pop()
        # Steps have grown: those of the smaller ones would only be kept.
        self._free.clear()
        self._kept = 0
        return bytearray(size)

    def give(self, buffer: bytearray) -> None:
        """It may be used again."""
        if self._kept + len(buffer) <= _KEPT:
            self._kept += len(buffer)
            self._free.setdefault(len(buffer), []).append(buffer)
