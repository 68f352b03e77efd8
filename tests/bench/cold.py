"""Cold files on a slow file system: streamcache beside what the source could give at best.

20 ms per read, 20 MiB/s for all readers together, 5 ms per lookup, stat and open, kernel
read-ahead 1 MiB (as NFS with rsize=1M). Each scenario has a mount, a daemon and a cache directory
of its own, so cache and page cache are cold; every byte is compared.
"""

from __future__ import annotations

import contextlib
import functools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from tests.bench import bare, processes
from tests.bench.client import Expected, Get, get
from tests.bench.report import Row
from tests.bench.scenario import SCENARIOS, Bench, MiB
from tests.content import write
from tests.daemon_process import DaemonProcess
from tests.slowfs import SlowFS

SIZE = 200 * MiB
FILM = "film.mkv"
BANDWIDTH = 20 * MiB
LATENCY = 0.020
REVALIDATE = 2.0  # s, the default
PATIENCE = 4.0  # times the ideal that is waited for something to happen


class Films:
    """What these scenarios share: the film, what must be in it, and the reference read."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.size = size_of_film(bench)
        self.film = bench.expected(FILM, self.size)
        self.films = film_directory(bench)
        self.cpu = 0.0  # s, of all daemons so far
        with SlowFS(self.films) as fs:
            self.one_read = bare.one_read(fs, FILM)  # s; lookup, open, 64 KiB

    @property
    def ideal(self) -> float:
        """s for the whole film: what one read costs besides its bytes, and the bytes."""
        return self.one_read - 64 * 1024 / BANDWIDTH + self.size / BANDWIDTH

    @contextlib.contextmanager
    def source(self, backing: Path | None = None) -> Iterator[SlowFS]:
        """A fresh mount: nothing of it is in the page cache."""
        with SlowFS(backing or self.films) as fs:
            yield fs

    @contextlib.contextmanager
    def site(self, backing: Path | None = None) -> Iterator[tuple[SlowFS, DaemonProcess]]:
        """A fresh mount, and a fresh daemon on a fresh cache directory."""
        with (
            self.source(backing) as fs,
            self.cache_dir() as cache,
            self.daemon(fs, cache) as server,
        ):
            yield fs, server

    def cache_dir(self) -> contextlib.AbstractContextManager[Path]:
        """An empty cache directory on the same disk as the rest."""
        return self._bench.directory("cache")

    def directory(self) -> contextlib.AbstractContextManager[Path]:
        """A directory for files that a scenario changes."""
        return self._bench.directory()

    @contextlib.contextmanager
    def daemon(self, fs: SlowFS, cache: Path) -> Iterator[DaemonProcess]:
        """The daemon, warm (it has answered before), its log shown when something went wrong."""
        with DaemonProcess(fs.path, "--log-level", "warning", cache_dir=cache) as server:
            try:
                for _ in range(3):
                    get(server.address, "no such file", Expected("", 0))
                fs.reset()
                before = processes.cpu_seconds(server.pid)
                yield server
                if server.code is None:  # else it was killed, and what it took is not known
                    self.cpu += processes.cpu_seconds(server.pid) - before
            except BaseException:
                print("\n".join(server.log.splitlines()[-20:]), file=sys.stderr)
                raise


def size_of_film(bench: Bench) -> int:
    """Bytes: ten seconds of the source."""
    return 40 * MiB if bench.quick else SIZE


def film_directory(bench: Bench) -> Path:
    """Where the film is."""
    path = bench.root / f"films-{size_of_film(bench)}"
    if not path.exists():
        write(path, FILM, size_of_film(bench))
    return path


_films = functools.cache(Films)


def scenario(function: Callable[[Films], list[Row]]) -> Callable[[Films], list[Row]]:
    """Register a scenario of films; the CPU seconds of its daemons go beside its first row."""

    def run(bench: Bench) -> list[Row]:
        films = _films(bench)
        before = films.cpu
        first, *rest = function(films)
        used = films.cpu - before
        return [replace(first, cpu=used) if used else first, *rest]

    run.__doc__ = function.__doc__
    SCENARIOS[f"cold.{function.__name__}"] = run
    return function


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Look at the counters of the source until something is so; False: it never was."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def milliseconds(seconds: float) -> float:
    """The same in ms."""
    return seconds * 1000


@scenario
def first_byte(films: Films) -> list[Row]:
    """The first byte of a GET of a cold file beside one read of 64 KiB on the bare mount."""
    count, size = 12, MiB
    times, reads = [], []
    with films.directory() as files:
        for number in range(count):
            write(files, f"{number}.mkv", size)
        with films.site(files) as (fs, server):
            for number in range(count):
                name = f"{number}.mkv"
                answer = get(server.address, name, Expected(name, size)).require()
                times.append(answer.first_byte)
                # The next file must find the source idle.
                wait_for(lambda n=name: fs.counters(n).bytes_read >= size, 10)
                reads.append(bare.one_read(fs, name, repeat=1))
    return [
        Row(
            "first byte of a GET",
            milliseconds(statistics.median(times)),
            "ms",
            milliseconds(statistics.median(reads)),
            "(one 64 KiB read of a cold file)",
            "<= 1.3 x",
            at_most=1.3,
            of_ratio=True,
            note=f"worst of {count}: {milliseconds(max(times)):.1f}",
        )
    ]


@scenario
def whole_file(films: Films) -> list[Row]:
    """One client, the whole film."""
    with films.site() as (fs, server):
        answer = get(server.address, FILM, films.film).require()
        counters = fs.counters(FILM)
        return [
            Row(
                f"whole {films.size // MiB} MiB file",
                answer.done,
                "s",
                films.ideal,
                "(ideal)",
                "<= 1.02 x",
                at_most=1.02,
                of_ratio=True,
                note=f"source bytes / size {counters.bytes_read / films.size:.4f}",
            )
        ]


@scenario
def one_seek(films: Films) -> list[Row]:
    """A seek to 90 % while another client plays."""
    with films.site() as (_fs, server):
        player = Get(server.address, FILM, films.film)
        player.start()
        player.join(1.0)
        start = films.size * 9 // 10
        seek = get(server.address, FILM, films.film, start, start + MiB).require()
        played = player.result().require()
    first = milliseconds(films.one_read)
    ideal_mib = milliseconds(films.one_read + (MiB - 64 * 1024) / BANDWIDTH)
    return [
        Row(
            "one seek to 90 % while another plays: first byte",
            milliseconds(seek.first_byte),
            "ms",
            first,
            "(one 64 KiB read of a cold file)",
            "<= 55 ms",
            at_most=55,
        ),
        Row(
            "... the whole MiB",
            milliseconds(seek.done),
            "ms",
            ideal_mib,
            "(ideal, the source to itself)",
            "<= 220 ms",
            at_most=220,
        ),
        _player(played.done, films, 1.02),
    ]


@scenario
def twenty_seeks(films: Films) -> list[Row]:
    """Twenty clients seek to twenty places, a MiB each, while one plays."""
    count = 20
    with films.site() as (fs, server):
        player = Get(server.address, FILM, films.film)
        player.start()
        player.join(1.0)
        places = [films.size * (20 + 4 * number) // 100 for number in range(count)]
        seekers = [Get(server.address, FILM, films.film, place, place + MiB) for place in places]
        for seeker in seekers:
            seeker.start()
        seeks = [seeker.result().require() for seeker in seekers]
        played = player.result().require()
        counters = fs.counters(FILM)
        repeated = fs.repeated(FILM)
    firsts = [seek.first_byte for seek in seeks]
    return [
        Row(
            "20 seekers at 20 places while one plays: last MiB complete",
            max(seek.done for seek in seeks),
            "s",
            LATENCY + count * MiB / BANDWIDTH,
            "(ideal)",
            "<= 1.15 s",
            at_most=1.15,
            note=f"first bytes: median {milliseconds(statistics.median(firsts)):.0f}, "
            f"worst {milliseconds(max(firsts)):.0f} ms",
        ),
        _player(played.done, films, 1.03),
        Row(
            "... source bytes / size",
            counters.bytes_read / films.size,
            aim="<= 1.001",
            at_most=1.001,
            note=f"{repeated} bytes read again",
        ),
    ]


def _player(seconds: float, films: Bench, limit: float) -> Row:
    return Row(
        "... that player's time",
        seconds,
        "s",
        films.ideal,
        "(ideal)",
        f"<= {limit} x",
        at_most=limit,
        of_ratio=True,
    )


@scenario
def fifty_clients(films: Films) -> list[Row]:
    """Fifty clients ask for the whole film at the same moment."""
    count = 50
    with films.site() as (fs, server):
        clients = [Get(server.address, FILM, films.film) for _ in range(count)]
        for client in clients:
            client.start()
        answers = [client.result().require() for client in clients]
        counters = fs.counters(FILM)
    return [
        Row(
            "50 clients at once: source bytes / size",
            counters.bytes_read / films.size,
            aim="<= 1.001",
            at_most=1.001,
        ),
        Row(
            "... the last one",
            max(answer.done for answer in answers),
            "s",
            films.ideal,
            "(ideal)",
            "<= 1.05 x",
            at_most=1.05,
            of_ratio=True,
        ),
    ]


@scenario
def join_at_half(films: Films) -> list[Row]:
    """A client joins when half is copied: how fast does that half come?"""
    half = films.size // 2
    with films.site() as (_fs, server):
        player = Get(server.address, FILM, films.film)
        reached = player.mark(half)
        player.start()
        reached.wait()
        joined = get(server.address, FILM, films.film, 0, half, check_later=True).require()
        player.result().require()
        time.sleep(1.0)  # until it is published, so that the reference is a hit
        hit = get(server.address, FILM, films.film, 0, half, check_later=True).require()
    return [
        Row(
            "join at half: the first half arrives at",
            half / joined.done / 1e9,
            "GB/s",
            half / hit.done / 1e9,
            "(the same bytes as a hit)",
            ">= 0.8 GB/s",
            at_least=0.8,
        )
    ]


@scenario
def first_client_leaves(films: Films) -> list[Row]:
    """The client that caused the copy leaves at 10 %."""
    with films.site() as (fs, server):
        began = time.monotonic()
        get_tenth = Get(server.address, FILM, films.film, leave_at=films.size // 10)
        get_tenth.run()
        get_tenth.answer.require()
        complete = wait_for(
            lambda: fs.counters(FILM).bytes_read >= films.size, PATIENCE * films.ideal
        )
        took = time.monotonic() - began
        time.sleep(1.0)  # until it is published
        before = fs.counters(FILM).bytes_read
        again = get(server.address, FILM, films.film).require()
        read = fs.counters(FILM).bytes_read - before
    return [
        Row(
            "first client leaves at 10 %: the copy completes",
            float(complete and read == 0),
            "yes/no",
            aim="yes",
            at_least=1,
            note=f"after {took / films.ideal:.3f} x ideal; the next client: "
            f"{again.cache_status}, {read} bytes from the source",
        )
    ]


@scenario
def replaced(films: Films) -> list[Row]:
    """The source is replaced by rename while it is copied (same size, other bytes and time)."""
    second = Expected("second version", films.size)
    with films.directory() as files:
        write(files, FILM, films.size)
        with films.site(files) as (_fs, server):
            old = Get(server.address, FILM, films.film)
            reached = old.mark(films.size * 3 // 10)
            old.start()
            reached.wait()
            write(files, FILM, films.size, content_name=second.name, age=1800)
            old.join(REVALIDATE + 0.5)
            new = Get(server.address, FILM, second)
            new.start()
            old_answer, new_answer = old.result(), new.result()
    # A byte of the other version is a wrong byte: all of one content were expected.
    mixed = sum("wrong byte" in answer.error for answer in (old_answer, new_answer))
    cut = sum(answer.received < films.size for answer in (old_answer, new_answer))
    errors = "; ".join(answer.error for answer in (old_answer, new_answer) if answer.error)
    return [
        Row(
            "source replaced by rename mid-copy: answers with a mixed byte",
            float(mixed),
            aim="0",
            at_most=0,
            note=errors or "old reader: all of the old version; new reader: all of the new",
        ),
        Row("... readers cut off", float(cut), aim="0", at_most=0),
    ]


@scenario
def killed(films: Films) -> list[Row]:
    """SIGKILL when half is copied, then a new daemon on the same cache."""
    with films.source() as fs, films.cache_dir() as cache:
        with films.daemon(fs, cache) as server:
            player = Get(server.address, FILM, films.film)
            reached = player.mark(films.size // 2)
            player.start()
            reached.wait()
            server.kill()
            player.join()
        _until_quiet(fs)
        fs.reset()
        with films.daemon(fs, cache) as server:
            answer = get(server.address, FILM, films.film).require()
            read = fs.counters(FILM).bytes_read
    return [
        Row(
            "SIGKILL at half, restart: source bytes read by the next client / size",
            read / films.size,
            reference=(films.size - player.answer.received) / films.size,
            named="(what the first one had not received)",
            aim="<= 0.52",
            at_most=0.52,
            note=f"it took {answer.done / films.ideal:.3f} x ideal",
        )
    ]


def _until_quiet(fs: SlowFS) -> None:
    """Reads of a killed process still arrive for a moment."""
    last = -1
    while (now := fs.counters().bytes_read) != last:
        last = now
        time.sleep(0.2)


@scenario
def source_down(films: Films) -> list[Row]:
    """The source fails, then hangs, after the version was due to be asked for again."""
    size = 8 * MiB
    name = "small.mkv"
    expected = Expected(name, size)
    rows = []
    with films.directory() as files:
        write(files, name, size)
        for kind, what in (("EIO", "fails (EIO)"), ("hang", "hangs")):
            with films.site(files) as (fs, server):
                get(server.address, name, expected).require()
                time.sleep(1.0)  # until it is published
                hit = get(server.address, name, expected).require()
                fs.fault(kind)
                time.sleep(REVALIDATE + 0.5)
                answer = get(server.address, name, expected)
                time.sleep(0.1)
                again = get(server.address, name, expected)
                fs.release()
            rows.append(
                Row(
                    f"source {what} after the freshness time: served stale",
                    float(not answer.error and not again.error),
                    "yes/no",
                    aim="yes",
                    at_least=1,
                    note=answer.error
                    or again.error
                    or f"{answer.cache_status}; first byte after "
                    f"{milliseconds(answer.first_byte):.0f} ms, then "
                    f"{milliseconds(again.first_byte):.0f} ms; fresh: "
                    f"{milliseconds(hit.first_byte):.0f} ms",
                )
            )
    return rows


@scenario
def bare_mount(films: Films) -> list[Row]:
    """For comparison: the slow mount without streamcache."""
    with films.source() as fs:
        whole = bare.whole(fs, FILM)
        first, mib, player = bare.seek_while_playing(fs, FILM)
    return [
        Row("(bare mount) whole file", whole, "s", films.ideal, "(ideal)"),
        Row("(bare mount) one seek to 90 %: first byte", milliseconds(first), "ms"),
        Row("(bare mount) ... the whole MiB", milliseconds(mib), "ms"),
        Row("(bare mount) ... that player's time", player, "s", films.ideal, "(ideal)"),
    ]
