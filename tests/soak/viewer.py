"""Those who watch: each plays, seeks, resumes, dawdles and leaves, and checks every byte."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from random import Random

import gevent
from gevent.event import Event

from tests.content import Verifier
from tests.server.client import Client, Response, get
from tests.soak.findings import Findings
from tests.soak.titles import Content, Titles

HANGS = 60.0  # s without a byte: no promise allows that
SLACK = 15.0  # s that a new version may take; ``source.revalidate`` and a busy machine
PAUSE = 0.05  # s between two requests
_FAULTS = (403, 503, 504)  # what the source's faults may become


class Wrong(Exception):
    """Something that must not be."""


class Seen:
    """What all viewers together saw."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()  # of the cache: hit, miss, ...
        self.bytes = 0  # verified

    @property
    def whole(self) -> int:
        """Answers that came to their end, every byte right."""
        return self.outcomes["whole"]


class Viewers:
    """A crowd that can be asked to rest."""

    def __init__(
        self,
        count: int,
        titles: Titles,
        findings: Findings,
        address: Callable[[], tuple[str, int] | None],
        random: Random,
    ) -> None:
        """``address``: where the daemon is now; None: it is not."""
        self.seen = Seen()
        self._titles = titles
        self._findings = findings
        self._address = address
        self._open = Event()
        self._open.set()
        self._resting = 0
        self._greenlets = [
            gevent.spawn(self._run, Random(random.getrandbits(64))) for _ in range(count)
        ]

    def rest(self) -> None:
        """All leave, and do not come back before ``resume``. Switches."""
        self._open.clear()
        with gevent.Timeout(2 * HANGS, AssertionError("a viewer hangs")):
            while self._resting < len(self._greenlets):
                gevent.sleep(0.01)

    def resume(self) -> None:
        """They come again."""
        self._open.set()

    def close(self) -> None:
        """The end of all."""
        gevent.killall(self._greenlets)

    def check_all(self) -> None:
        """Everything there is, whole and right: nothing is in the way any more. Switches."""
        deadline = time.monotonic() + SLACK
        for name in self._titles.names:
            while (outcome := self._check(name)) != "whole":
                if time.monotonic() > deadline:
                    self._findings.add(f"{name}: {outcome}, and nothing is in the way")
                    break
                gevent.sleep(0.1)  # a breaker has to find out that the source is well again

    def _check(self, name: str) -> str:
        address = self._address()
        assert address is not None
        try:
            with Client(address) as client:
                client.socket.settimeout(HANGS)
                return Request(self._titles, name, _Patient()).play(client, self.seen)
        except Wrong as wrong:
            self._findings.add(str(wrong))
            return "wrong"

    def _run(self, random: Random) -> None:
        while True:
            if not self._open.is_set():
                self._resting += 1
                self._open.wait()
                self._resting -= 1
            address = self._address()
            if address is None:
                gevent.sleep(PAUSE)
                continue
            try:
                self._visit(address, random)
            except Wrong as wrong:
                self._findings.add(str(wrong))
            except TimeoutError:
                self._findings.add(f"no byte within {HANGS:g} s")
            except OSError as error:  # who accepted us was killed
                self.seen.outcomes[type(error).__name__] += 1
                gevent.sleep(PAUSE)

    def _visit(self, address: tuple[str, int], random: Random) -> None:
        """One connection, and some requests on it."""
        with Client(address) as client:
            client.socket.settimeout(HANGS)
            for _ in range(random.choice((1, 1, 3, 10))):
                if not self._open.is_set():
                    return
                request = Request(self._titles, random.choice(self._titles.names), random)
                outcome = request.play(client, self.seen, self._open.is_set)
                self.seen.outcomes[outcome] += 1
                if outcome in ("cut", "left"):
                    return
                gevent.sleep(random.random() * PAUSE)


class _Patient(Random):
    """Whoever chooses with it asks for all, and stays to the end."""

    def random(self) -> float:
        return 0.999


class Request:
    """One GET, of all or of a part."""

    def __init__(self, titles: Titles, name: str, random: Random) -> None:
        self._titles = titles
        self._name = name
        self._random = random

    def play(self, client: Client, seen: Seen, stays: Callable[[], bool] = lambda: True) -> str:
        """The outcome in a word: "whole", "cut", "left", "404" ... Switches. Raises Wrong.

        It leaves by chance, and when it no longer ``stays``.
        """
        content = self._titles.current(self._name)
        size = content.size if content else 1
        start = self._random.randrange(size) if size and self._random.random() < 0.5 else 0
        part = size > 0 and self._random.random() < 0.3
        stop = self._random.randint(start + 1, size) if part else None
        last = "" if stop is None else str(stop - 1)
        fields = [f"Range: bytes={start}-{last}"] if start or stop else []
        asked = time.monotonic()
        try:
            client.send(get(f"/{self._name}", *fields))
            head = client.head()
        except EOFError as nothing:
            if nothing.args[0]:
                raise Wrong(f"{self._name}: half a head {nothing.args[0]!r}") from None
            return "cut"
        if head.status not in (200, 206):
            return self._without_bytes(client, head, asked)
        content = self._version(head, asked)
        begin, end = self._extent(head, content, start, stop)
        status = head.fields["cache-status"].partition("; ")[2]
        seen.statuses[status] += 1
        return self._body(client, content, (begin, end), seen, stays)

    def _without_bytes(self, client: Client, head: Response, asked: float) -> str:
        client.body(int(head.fields["content-length"]))
        there = self._titles.current(self._name) is not None
        if head.status == 404 and there and self._titles.is_settled(self._name, asked, SLACK):
            raise Wrong(f"{self._name}: 404, and it is there")
        if head.status not in (404, 416, *_FAULTS):
            raise Wrong(f"{self._name}: status {head.status}")
        return str(head.status)

    def _version(self, head: Response, asked: float) -> Content:
        version = head.fields["etag"].strip('"')
        content = self._titles.version(version)
        if content is None or content.title != self._name:
            raise Wrong(f"{self._name}: served as {version}, which is {content}")
        stale = "stale" in head.fields["cache-status"]
        if not stale and self._titles.is_over(version, asked, SLACK):
            over = f"was replaced {SLACK:g} s ago and more"
            raise Wrong(f"{content.text} {over}: {head.fields['cache-status']}")
        return content

    def _extent(
        self, head: Response, content: Content, start: int, stop: int | None
    ) -> tuple[int, int]:
        """Half-open: what the answer says it holds. Both ends fit the version, or Wrong."""
        length = int(head.fields["content-length"])
        begin, end = 0, content.size
        if head.status == 206:
            unit, _, rest = head.fields["content-range"].partition(" ")
            extent, _, size = rest.partition("/")
            first, _, last = extent.partition("-")
            begin, end = int(first), int(last) + 1
            wanted = min(content.size if stop is None else stop, content.size)
            if (unit, int(size), begin, end) != ("bytes", content.size, start, wanted):
                raise Wrong(f"{self._name}: {content} answered with {head.fields}")
        if length != end - begin:
            raise Wrong(f"{self._name}: {content} answered with {head.fields}")
        return begin, end

    def _body(
        self,
        client: Client,
        content: Content,
        extent: tuple[int, int],
        seen: Seen,
        stays: Callable[[], bool],
    ) -> str:
        begin, end = extent
        random, verifier = self._random, Verifier(content.text, begin, end)
        leave = random.randint(begin, end) if random.random() < 0.15 else end
        slow = random.random() < 0.05
        while verifier.offset < end:
            if verifier.offset >= leave or not stays():
                if random.random() < 0.5:
                    client.reset()
                return "left"
            try:
                data = client.more()
            except ConnectionError:
                return "cut"
            if not data:
                return "cut"
            if (wrong := verifier.feed(data)) is not None:
                raise Wrong(f"{content}: {wrong} of {begin}-{end}")
            seen.bytes += len(data)
            gevent.sleep(0.02 * random.random() if slow else 0)
        return "whole"
