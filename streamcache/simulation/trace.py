"""The uses in an access log, as a cache counts them: one per client and file in ten minutes.

A file takes some hundred bytes of memory, however often it was asked for, and a use four.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from streamcache.cache.uses import Uses
from streamcache.simulation.loglines import Use, read_line


@dataclass(slots=True)
class Trace:
    """Files by number, in the order of their first use, and the uses of them."""

    sizes: array[int] = field(default_factory=lambda: array("Q"))  # bytes, as far as they are known
    uses: array[int] = field(default_factory=lambda: array("I"))
    lines: int = 0
    unread: int = 0  # lines that are none of an access log
    requests: int = 0  # that had bytes of a file
    guessed: int = 0  # files of which nobody saw the end: their sizes may be larger
    first: int = 0  # s since the epoch
    last: int = 0

    @property
    def footprint(self) -> int:
        """Bytes of all files together: a cache of that size has each file."""
        return sum(self.sizes)


class Reading:
    """Makes a trace of lines; ``interval`` (s) as in ``cache.touch_interval``."""

    def __init__(self, interval: float = 600.0) -> None:
        self.trace = Trace()
        self.paths: dict[str, int] = {}
        self._uses = Uses(interval)
        self._whole = bytearray()  # a byte for each file: its end was seen

    def feed(self, lines: Iterable[str]) -> None:
        """Read these lines."""
        trace = self.trace
        for line in lines:
            if not line.strip():
                continue
            trace.lines += 1
            try:
                use = read_line(line)
            except ValueError:
                trace.unread += 1
                continue
            if use is not None and use.stop:
                self._take(use)

    def end(self) -> Trace:
        """All of it."""
        self.trace.guessed = self._whole.count(0)
        return self.trace

    def _take(self, use: Use) -> None:
        trace = self.trace
        if not trace.requests:
            trace.first = use.time
        trace.requests += 1
        trace.last = max(trace.last, use.time)
        number = self.paths.setdefault(use.path, len(self.paths))
        if number == len(trace.sizes):
            trace.sizes.append(use.stop)
            self._whole.append(use.whole)
        elif use.whole:  # the newest of its versions
            trace.sizes[number], self._whole[number] = use.stop, 1
        elif not self._whole[number]:
            trace.sizes[number] = max(trace.sizes[number], use.stop)
        if self._uses.counts(use.client, number, use.time):
            trace.uses.append(number)
