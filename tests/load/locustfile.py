"""Viewers, for locust: every byte they receive is verified.

    python -m tests.load.make_files /tmp/titles
    bin/streamcache serve /tmp/titles
    locust -f tests/load/locustfile.py --host http://127.0.0.1:8080

One row of the statistics is one kind of request. Its time is the time to the first byte, which is
what a viewer feels; a wrong or missing byte is a failure that names the file and the offset.
"""

from __future__ import annotations

import itertools
import random
import time

import gevent
from locust import User, constant, events, task

from tests.load.titles import INDEX, Title, loads
from tests.load.viewer import Viewer, Watching, Wrong

KiB, MiB = 1024, 1024 * 1024
PARALLEL = 8  # connections of a downloader


@events.init_command_line_parser.add_listener
def _options(parser, **_rest) -> None:
    parser.add_argument(
        "--bitrate", type=float, default=1.0, help="MB/s that players take (default 1, 8 Mbit/s)"
    )
    parser.add_argument(
        "--premiere-every", type=float, default=10.0, help="s between two premieres (default 10)"
    )


class Watcher(User):
    """What all viewers have in common."""

    abstract = True
    host = "http://127.0.0.1:8080"
    wait_time = constant(0)

    def on_start(self) -> None:
        """Learn which titles there are."""
        self.viewer = Viewer(self.host)
        began = time.monotonic()
        error: Exception | None = None
        try:
            self.titles = loads(self.viewer.fetch(INDEX))
        except (OSError, ValueError, Wrong) as caught:
            error = Wrong(f"{caught}: is {INDEX} served? (python -m tests.load.make_files DIR)")
        self._report("titles", began, None, 0, error)
        if error is not None:
            self.stop(force=True)

    def on_stop(self) -> None:
        """Leave."""
        self.viewer.close()

    def any_title(self) -> Title:
        """A title as people choose: a few of them often."""
        films = [title for title in self.titles if not title.premiere]
        return films[min(int(random.expovariate(4 / len(films))), len(films) - 1)]

    def watch(
        self,
        kind: str,
        title: Title,
        start: int = 0,
        stop: int | None = None,
        *,
        bitrate: float = 0.0,
        leave_after: int | None = None,
        viewer: Viewer | None = None,
    ) -> bool:
        """One request: at ``bitrate`` bytes/s (0: as fast as it comes), left after that many bytes.

        Reports it to locust; False when something was wrong.
        """
        viewer = viewer or self.viewer
        watching = viewer.watch(title, start, stop)
        began = time.monotonic()
        error: Exception | None = None
        done = False
        try:
            done = self._take(watching, bitrate, leave_after)
        except Wrong as caught:
            error = caught
        finally:  # also when locust ends this user
            if not done:
                viewer.close()
        self._report(kind, began, watching.first_byte, watching.received, error)
        return error is None

    @staticmethod
    def _take(watching: Watching, bitrate: float, leave_after: int | None) -> bool:
        began = time.monotonic()
        for received in watching.pieces():
            if leave_after is not None and received >= leave_after:
                return False
            if bitrate:
                gevent.sleep(max(0.0, began + received / bitrate - time.monotonic()))
        return True

    def _report(
        self, kind: str, began: float, first: float | None, size: int, error: Exception | None
    ) -> None:
        took = first if first is not None else time.monotonic() - began
        self.environment.events.request.fire(
            request_type="GET",
            name=kind,
            response_time=took * 1000,
            response_length=size,
            exception=error,
            context={},
        )

    @property
    def bitrate(self) -> float:
        """Bytes/s a player takes."""
        return self.environment.parsed_options.bitrate * 1e6


class Player(Watcher):
    """Plays a title from the beginning to its end, at its bitrate."""

    weight = 6

    @task
    def play(self) -> None:
        """Play one title."""
        self.watch("play", self.any_title(), bitrate=self.bitrate)


class Seeker(Watcher):
    """Jumps about in a title, as with a finger on the progress bar."""

    weight = 4

    @task
    def seek(self) -> None:
        """Half the seeks ask for a piece, half ask for the rest and hang up, as browsers do."""
        title = self.any_title()
        for _ in range(random.randint(3, 10)):
            start = random.randrange(title.size)
            size = random.randint(64 * KiB, MiB)
            if random.random() < 0.5:
                self.watch("seek (piece)", title, start, min(start + size, title.size))
            else:
                self.watch("seek (rest)", title, start, leave_after=size)
            gevent.sleep(random.uniform(0.05, 0.5))


class Zapper(Watcher):
    """Starts a title, does not like it, takes the next."""

    weight = 4

    @task
    def zap(self) -> None:
        """Leave early."""
        self.watch("zap", self.any_title(), leave_after=random.randint(10 * KiB, 600 * KiB))
        gevent.sleep(random.uniform(0.05, 0.3))


class Crowd(Watcher):
    """All of them start the same cold title at the same moment."""

    weight = 8

    @task
    def premiere(self) -> None:
        """Wait for the next premiere (by the clock, so that all agree on it) and watch it."""
        every = self.environment.parsed_options.premiere_every
        number = int(time.time() / every) + 1
        gevent.sleep(number * every - time.time())
        premieres = [title for title in self.titles if title.premiere]
        self.watch("premiere", premieres[number % len(premieres)], bitrate=4 * self.bitrate)


class Downloader(Watcher):
    """Fetches a title in parallel ranges and puts it together."""

    weight = 2

    @task
    def download(self) -> None:
        """Eight connections, each with its part."""
        title = self.any_title()
        cuts = [title.size * part // PARALLEL for part in range(PARALLEL + 1)]
        parts = [
            gevent.spawn(self._part, title, start, stop) for start, stop in itertools.pairwise(cuts)
        ]
        try:
            gevent.joinall(parts)
        finally:
            gevent.killall(parts)
        gevent.sleep(random.uniform(0.5, 2))

    def _part(self, title: Title, start: int, stop: int) -> None:
        viewer = Viewer(self.host)
        try:
            self.watch("download (part)", title, start, stop, viewer=viewer)
        finally:
            viewer.close()
