"""Calls that hang in their worker threads, until a test lets them go on."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from tests.system.site import WAIT


class Held:
    """Calls that wait in their worker threads."""

    def __init__(self) -> None:
        self.calls = 0
        self._open = threading.Event()

    def wait(self) -> None:
        self.calls += 1
        self._open.wait(WAIT)

    def release(self) -> None:
        self._open.set()

    @property
    def entered(self) -> bool:
        return self.calls > 0


@contextlib.contextmanager
def holding(
    owner: object,
    name: str,
    *,
    which: Callable[..., bool] = lambda *args: True,
    after: bool = False,
) -> Iterator[Held]:
    """Calls of this method hang, before or after they are done, until the end of the block."""
    held, real = Held(), getattr(owner, name)

    def slow(*args: Any, **options: Any) -> Any:
        chosen = which(*args)
        if chosen and not after:
            held.wait()
        result = real(*args, **options)
        if chosen and after:
            held.wait()
        return result

    with mock.patch.object(owner, name, slow):
        try:
            yield held
        finally:
            held.release()
