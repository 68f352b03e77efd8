"""A process that shares the account of a cache directory, and obeys a test. Run as a module.

One JSON line per command, one per answer. Objects have no files here: rows are what is tested.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import gevent

from streamcache.cache.evictor import Evictor
from streamcache.errors import CacheError, NoSpace
from tests.cache.accounts import Sharer, name, until

_STUCK = 40.0  # s


class Process:
    """The test's end of it."""

    def __init__(self, root: Path, **options: object) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(root), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        self._buffer = b""

    def ask(self, command: str, *args: object) -> Any:
        """Do that, and what came out of it."""
        self.tell(command, *args)
        return self.answer()

    def tell(self, command: str, *args: object) -> None:
        """Do that; ``answer`` fetches what came out of it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([command, *args]).encode() + b"\n")
        self._process.stdin.flush()

    def answer(self, timeout: float = _STUCK) -> Any:
        """The next answer."""
        assert self._process.stdout is not None
        end = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            fd = self._process.stdout.fileno()
            ready, _, _ = select.select([fd], [], [], max(0.0, end - time.monotonic()))
            assert ready, "no answer"
            read = os.read(fd, 65536)
            assert read, "the process has ended"
            self._buffer += read
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def signal(self, number: int) -> None:
        """SIGKILL, SIGSTOP, SIGCONT ..."""
        self._process.send_signal(number)
        if number == signal.SIGKILL:
            self._process.wait(_STUCK)

    def close(self) -> None:
        """Let it end, however it is."""
        if self._process.poll() is None:
            with suppress(OSError):
                self.signal(signal.SIGCONT)
                self.tell("end")
            try:
                self._process.wait(_STUCK)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()


class Child:
    """The commands."""

    def __init__(
        self,
        root: Path,
        *,
        limit: int = 1000,
        alone: bool = False,
        evictor: bool = True,
        hang: str = "",
    ) -> None:
        self._hang = hang
        self.sharer = Sharer(root, limit, alone=alone, partials=self._partials)
        self.space, self.ledger = self.sharer.space, self.sharer.ledger
        self.evictor = Evictor(
            self.space,
            self.ledger,
            catalog_call=self.ledger.call,
            remove=self._remove,
            leased=lambda: (),
            drop_idle_partials=lambda need: 0,
            interval=0.1,
            lock=str(root / "evictor"),
        )
        if evictor:
            self.evictor.start()
        self.background: list[gevent.Greenlet[..., Any]] = []

    def _partials(self) -> list[tuple[str, int]]:
        """In the disk pool."""
        if self._hang == "rebuild":
            answer("rebuilding")
            time.sleep(_STUCK)
        return []

    def _remove(self, names: list[str]) -> list[str]:
        if self._hang == "eviction":
            answer("evicting")
            gevent.sleep(_STUCK)
        return [name for name in names if not self._lease(name).exists()]

    def _lease(self, name: str) -> Path:
        """A file that says that somebody reads this object."""
        return self.sharer.root / f"lease-{name}"

    def ready(self) -> bool:
        until(lambda: self.space.known)
        return True

    def draw(self, number: int, amount: int, most: int, timeout: float) -> Any:
        try:
            drawn = self.space.draw(name(number), amount, most, timeout=timeout)
        except NoSpace as error:
            return str(error)
        return [drawn.amount, drawn.whole, drawn.generation]

    def settle(self, number: int, generation: int, on_disk: int) -> None:
        self.space.settle(name(number), generation, on_disk)

    def put(self, number: int, on_disk: int) -> None:
        self.sharer.put(number, on_disk)

    def generation(self, number: int) -> int:
        return self.space.generation(name(number))

    def totals(self) -> list[int]:
        self.space.refresh()
        return [self.space.objects, self.space.reserved, self.space.trash]

    def rebuilds(self) -> int:
        return self.ledger.rebuilds

    def grow(self, numbers: list[int], times: int, seed: int) -> int:
        """So many draws of 1 byte, from several greenlets; how many bytes were granted."""
        rng = random.Random(seed)

        def some() -> int:
            drawn = 0
            for _ in range(times // 4):
                number = rng.choice(numbers)
                drawn += self.space.draw(name(number), 1, 1 << 40, timeout=30).amount
            return drawn

        greenlets = [gevent.spawn(some) for _ in range(4)]
        gevent.joinall(greenlets, raise_error=True)
        return sum(greenlet.value for greenlet in greenlets)

    def hammer(self, tribe: int) -> None:
        """Copies that come, grow, are published, dropped and trashed, until this process ends.

        Each greenlet has names of its own, as a session has.
        """
        for number in range(4):
            names = range(tribe * 1000 + number * 50, tribe * 1000 + number * 50 + 50)
            self.background.append(gevent.spawn(self._copy, random.Random(tribe), names))

    def sweep(self, tribe: int) -> None:
        """That one has died: settle what it left."""
        for reserved in self.ledger.reservations():
            if int(reserved.name[33:], 16) // 1000 == tribe:
                self.space.settle(reserved.name, reserved.generation, 0)
        for trashed in self.ledger.trash():
            if int(trashed.file.split(".")[0]) // 1000 == tribe:
                self.ledger.trash_freed(trashed.file)
        for number in range(tribe * 1000, tribe * 1000 + 1000):
            self._lease(name(number)).unlink(missing_ok=True)

    def _copy(self, rng: random.Random, names: range) -> None:
        while True:
            with suppress(CacheError):
                self._copy_once(rng, rng.choice(names))
            gevent.sleep(0)

    def _copy_once(self, rng: random.Random, number: int) -> None:
        most = rng.randrange(1, self.space.limit // 3)
        generation = 0
        try:
            for _ in range(rng.randrange(1, 4)):
                drawn = self.space.draw(name(number), most // 3 + 1, most, timeout=0.2)
                generation = drawn.generation
        except NoSpace:
            self.space.settle(name(number), generation, 0)
            return
        match rng.randrange(4):
            case 0:
                self.space.settle(name(number), generation, 0)
            case 1:
                self.space.settle(name(number), generation, most // 4)
                self.space.settle(name(number), generation, 0)
            case 2:
                self.sharer.put(number, most // 3)
            case _:
                lease = self._lease(name(number))
                lease.touch()
                self.sharer.put(number, most // 3)
                file = f"{number}.{os.getpid()}.{rng.random()}"
                self.ledger.trashed(name(number), file, most // 3)
                self.ledger.trash_freed(file)
                lease.unlink()

    def counts(self) -> list[int]:
        return [self.evictor.rounds, self.evictor.evicted_objects]

    def end(self) -> None:
        gevent.killall(self.background)
        self.evictor.stop()
        self.sharer.close()


def answer(value: object) -> None:
    os.write(1, json.dumps(value).encode() + b"\n")


def main() -> None:
    child = Child(Path(sys.argv[1]), **json.loads(sys.argv[2]))
    pool = gevent.get_hub().threadpool
    while line := pool.apply(sys.stdin.readline):
        command, *args = json.loads(line)
        answer(getattr(child, command)(*args))
        if command == "end":
            return
    child.end()


if __name__ == "__main__":
    main()
