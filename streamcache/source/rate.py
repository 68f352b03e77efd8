"""How fast a source is, and how long the steps are that follow from it. Hub's thread; no I/O."""

from __future__ import annotations

import math
import time
from typing import Final

FIRST_STEP = 64 * 1024  # bytes: the first block of a seek
MAX_STEP = 4 * 1024 * 1024  # bytes
NEAR_STEP = 1024 * 1024  # bytes: larger ones fall out of the processor's cache when handed over
NEAR = 0.5e9  # bytes/s: a step takes 2 ms at most, so there is little latency to hide
COPIED_STEP = 16 * 1024 * 1024  # bytes that one worker reads and writes: 6 ms from a near source
START_STEP = 256 * 1024  # bytes, until the source's rate is known
_SAMPLE_TIME = 0.05  # s of busy source that make one sample of its rate
_SAMPLE_BYTES = 2 * MAX_STEP


class Rate:
    """What the source delivers while it is busy, and the step that follows from it.

    The step is the rate times ``step_time``, rounded to a power of two: rounded down, a source
    whose latency is not yet hidden would look slow, get smaller steps, and look slower still. A
    source far away gets longer steps, so that those in flight cover its latency.
    """

    copied: Final = COPIED_STEP  # bytes of a step that one worker reads and writes

    def __init__(self, step_time: float, in_flight: int) -> None:
        self.step = START_STEP  # bytes of a step that is handed over
        self._step_time = step_time
        self._in_flight = in_flight
        self._latency = float("inf")  # s: the quickest step so far
        self._rate = 0.0  # bytes/s
        self._bytes = 0
        self._busy = 0.0  # s
        self._since = 0.0
        self._flying = 0

    @property
    def is_near(self) -> bool:
        """Whether it delivers nearly as fast as memory."""
        return self._rate >= NEAR

    def reconfigure(self, step_time: float, in_flight: int) -> None:
        """Other options, for the samples that end from now on."""
        self._step_time = step_time
        self._in_flight = in_flight

    def begin(self) -> float:
        """A read begins; when, in monotonic s."""
        now = time.monotonic()
        if not self._flying:
            self._since = now
        self._flying += 1
        return now

    def end(self, count: int, *, saturated: bool, started: float) -> None:
        """It has ended; ``saturated``: as many were under way as may be."""
        now = time.monotonic()
        self._latency = min(self._latency, now - started)
        self._flying -= 1
        busy, self._since = now - self._since, now
        self._add(count, busy, saturated=saturated)

    def copied_in(self, count: int, busy: float) -> None:
        """A worker that writes as well has read so much in so many s of the source's time.

        One such step is enough to know that the source is not near, or not any more: the next ones
        would take as long, with nothing in flight beside them.
        """
        if count < NEAR * busy:
            self._rate = 0.0  # what it was is no part of what it is
            self._learn(count / busy)
        else:
            self._add(count, busy, saturated=True)

    def _add(self, count: int, busy: float, *, saturated: bool) -> None:
        self._busy += busy
        self._bytes += count
        if self._busy < _SAMPLE_TIME and self._bytes < _SAMPLE_BYTES:
            return
        sample = self._bytes / max(self._busy, 1e-6)
        # A source that was not kept busy could have given more: believe only what is higher.
        if saturated or 0 < self._rate < sample:
            self._learn(sample)
        self._bytes, self._busy = 0, 0.0

    def _learn(self, sample: float) -> None:
        self._rate += (sample - self._rate) * (0.3 if self._rate else 1.0)
        far = self._rate * 1.5 * self._latency / self._in_flight
        wanted = max(1.0, min(self._rate * self._step_time, NEAR_STEP), far)
        power = 1 << round(math.log2(wanted))  # buffers come in powers of two
        self.step = min(max(power, FIRST_STEP), MAX_STEP)
