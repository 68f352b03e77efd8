"""How far something is: a bar on a terminal (rich, the extra ``cli``), else a line now and then."""

from __future__ import annotations

import importlib.util
import sys
import time
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING, Final

from streamcache.commands import output

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

_SELDOM: Final = 5.0  # s between two lines


class Progress:
    """``with Progress("warm") as line: line.show(...)``; a bar is gone at the end."""

    def __init__(self, what: str, *, stream: IO[str] | None = None) -> None:
        self._what = what
        self._stream = stream or sys.stderr
        self._bar: Bar | None = None
        self._open = ExitStack()
        self._last = time.monotonic()

    def __enter__(self) -> Progress:
        if output.can_draw(self._stream) and importlib.util.find_spec("rich") is not None:
            self._bar = self._open.enter_context(_bar(self._stream))
            self._bar.add_task(self._what, text="", total=None)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def show(
        self,
        done: float,
        whole: float,
        *,
        text: str = "",
        rate: float = 0.0,
        remaining: float | None = None,
    ) -> None:
        """Bytes (or anything) of how many, a text beside the bar, bytes/s, seconds left.

        Who does not know the seconds has them reckoned from what was done so far.
        """
        words = [text] if text else []
        if rate:
            words.append(output.rate(rate))
        if self._bar is not None:
            task = self._bar.tasks[0]
            if remaining is None:
                remaining = task.time_remaining
            self._bar.update(
                task.id,
                completed=done,
                total=whole or None,
                text="  ".join((*words, *_left(remaining))),
            )
        elif time.monotonic() - self._last >= _SELDOM:
            self._last = time.monotonic()
            words.extend(_left(remaining))
            beside = f" ({', '.join(words)})" if words else ""
            part = output.share(done, whole)
            self._stream.write(f"streamcache: {self._what}: {part}{beside}\n")
            self._stream.flush()


def bar(part: float, width: int) -> str:
    """ "######----" """
    full = round(part * width)
    return "#" * full + "-" * (width - full)


def _left(seconds: float | None) -> list[str]:
    return [] if seconds is None else [f"{output.duration(seconds)} left"]


def _bar(stream: IO[str]) -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bar

    return Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[text]}", markup=False),
        console=Console(file=stream),
        transient=True,
        # What is printed meanwhile goes above the bar; but not when it goes to a file.
        redirect_stdout=output.is_terminal(sys.stdout),
        redirect_stderr=False,
    )
