"""``python -m tests.bench.cold``: streamcache on a cold slow file system, as a Markdown table.

20 ms per read, 20 MiB/s for all readers together, 5 ms per lookup, stat and open, kernel
read-ahead 1 MiB (as NFS with rsize=1M). Each scenario has a mount, a daemon and a cache directory
of its own, so cache and page cache are cold; every byte is compared. Read the ratios: seconds
belong to this machine. Run it on an idle one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench import bare
from tests.bench.client import Expected, Get, get
from tests.bench.report import Row, as_json, markdown
from tests.content import write
from tests.daemon_process import DaemonProcess
from tests.slowfs import SlowFS

MiB = 1024 * 1024
SIZE = 200 * MiB
FILM = "film.mkv"
BANDWIDTH = 20 * MiB
LATENCY = 0.020
REVALIDATE = 2.0  # s, the default
PATIENCE = 4.0  # times the ideal that is waited for something to happen

Scenario = Callable[["Bench"], list[Row]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(function: Scenario) -> Scenario:
    """Register a scenario under its name."""
    SCENARIOS[function.__name__] = function
    return function


class Bench:
    """What all scenarios share: the files, what must be in them, and the reference read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.films = root / "films"
        self.film = Expected(FILM, SIZE)
        write(self.films, FILM, SIZE)
        with SlowFS(self.films) as fs:
            self.one_read = bare.one_read(fs, FILM)  # s; lookup, open, 64 KiB

    @property
    def ideal(self) -> float:
        """s for the whole film: what one read costs besides its bytes, and the bytes."""
        return self.one_read - 64 * 1024 / BANDWIDTH + SIZE / BANDWIDTH

    @contextlib.contextmanager
    def source(self, backing: Path | None = None) -> Iterator[SlowFS]:
        """A fresh mount: nothing of it is in the page cache."""
        with SlowFS(backing or self.films) as fs:
            yield fs

    @contextlib.contextmanager
    def site(self, backing: Path | None = None) -> Iterator[tuple[SlowFS, DaemonProcess]]:
        """A fresh mount, and a fresh daemon on a fresh cache directory."""
        with self.source(backing) as fs, self.cache_dir() as cache, daemon(fs, cache) as server:
            yield fs, server

    @contextlib.contextmanager
    def cache_dir(self) -> Iterator[Path]:
        """An empty cache directory on the same disk as the rest."""
        with tempfile.TemporaryDirectory(prefix="cache-", dir=self.root) as path:
            yield Path(path)

    @contextlib.contextmanager
    def directory(self) -> Iterator[Path]:
        """A directory for files that a scenario changes."""
        with tempfile.TemporaryDirectory(prefix="files-", dir=self.root) as path:
            yield Path(path)


@contextlib.contextmanager
def daemon(fs: SlowFS, cache: Path) -> Iterator[DaemonProcess]:
    """The daemon, warm (it has answered before), its log shown when something went wrong."""
    with DaemonProcess(fs.path, "--log-level", "warning", cache_dir=cache) as server:
        try:
            for _ in range(3):
                get(server.address, "no such file", Expected("", 0))
            fs.reset()
            yield server
        except BaseException:
            print("\n".join(server.log.splitlines()[-20:]), file=sys.stderr)
            raise


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
def first_byte(bench: Bench) -> list[Row]:
    """The first byte of a GET of a cold file beside one read of 64 KiB on the bare mount."""
    count, size = 12, MiB
    times, reads = [], []
    with bench.directory() as files:
        for number in range(count):
            write(files, f"{number}.mkv", size)
        with bench.site(files) as (fs, server):
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
def whole_file(bench: Bench) -> list[Row]:
    """One client, the whole film."""
    with bench.site() as (fs, server):
        answer = get(server.address, FILM, bench.film).require()
        counters = fs.counters(FILM)
        return [
            Row(
                "whole 200 MiB file",
                answer.done,
                "s",
                bench.ideal,
                "(ideal)",
                "<= 1.02 x",
                at_most=1.02,
                of_ratio=True,
                note=f"source bytes / size {counters.bytes_read / SIZE:.4f}",
            )
        ]


@scenario
def one_seek(bench: Bench) -> list[Row]:
    """A seek to 90 % while another client plays."""
    with bench.site() as (_fs, server):
        player = Get(server.address, FILM, bench.film)
        player.start()
        player.join(1.0)
        start = SIZE * 9 // 10
        seek = get(server.address, FILM, bench.film, start, start + MiB).require()
        played = player.result().require()
    first = milliseconds(bench.one_read)
    ideal_mib = milliseconds(bench.one_read + (MiB - 64 * 1024) / BANDWIDTH)
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
        _player(played.done, bench, 1.02),
    ]


@scenario
def twenty_seeks(bench: Bench) -> list[Row]:
    """Twenty clients seek to twenty places, a MiB each, while one plays."""
    count = 20
    with bench.site() as (fs, server):
        player = Get(server.address, FILM, bench.film)
        player.start()
        player.join(1.0)
        places = [SIZE * (20 + 4 * number) // 100 for number in range(count)]
        seekers = [Get(server.address, FILM, bench.film, place, place + MiB) for place in places]
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
        _player(played.done, bench, 1.03),
        Row(
            "... source bytes / size",
            counters.bytes_read / SIZE,
            aim="<= 1.001",
            at_most=1.001,
            note=f"{repeated} bytes read again",
        ),
    ]


def _player(seconds: float, bench: Bench, limit: float) -> Row:
    return Row(
        "... that player's time",
        seconds,
        "s",
        bench.ideal,
        "(ideal)",
        f"<= {limit} x",
        at_most=limit,
        of_ratio=True,
    )


@scenario
def fifty_clients(bench: Bench) -> list[Row]:
    """Fifty clients ask for the whole film at the same moment."""
    count = 50
    with bench.site() as (fs, server):
        clients = [Get(server.address, FILM, bench.film) for _ in range(count)]
        for client in clients:
            client.start()
        answers = [client.result().require() for client in clients]
        counters = fs.counters(FILM)
    return [
        Row(
            "50 clients at once: source bytes / size",
            counters.bytes_read / SIZE,
            aim="<= 1.001",
            at_most=1.001,
        ),
        Row(
            "... the last one",
            max(answer.done for answer in answers),
            "s",
            bench.ideal,
            "(ideal)",
            "<= 1.05 x",
            at_most=1.05,
            of_ratio=True,
        ),
    ]


@scenario
def join_at_half(bench: Bench) -> list[Row]:
    """A client joins when half is copied: how fast does that half come?"""
    half = SIZE // 2
    with bench.site() as (_fs, server):
        player = Get(server.address, FILM, bench.film)
        reached = player.mark(half)
        player.start()
        reached.wait()
        joined = get(server.address, FILM, bench.film, 0, half, check_later=True).require()
        player.result().require()
        time.sleep(1.0)  # until it is published, so that the reference is a hit
        hit = get(server.address, FILM, bench.film, 0, half, check_later=True).require()
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
def first_client_leaves(bench: Bench) -> list[Row]:
    """The client that caused the copy leaves at 10 %."""
    with bench.site() as (fs, server):
        began = time.monotonic()
        get_tenth = Get(server.address, FILM, bench.film, leave_at=SIZE // 10)
        get_tenth.run()
        get_tenth.answer.require()
        complete = wait_for(lambda: fs.counters(FILM).bytes_read >= SIZE, PATIENCE * bench.ideal)
        took = time.monotonic() - began
        time.sleep(1.0)  # until it is published
        before = fs.counters(FILM).bytes_read
        again = get(server.address, FILM, bench.film).require()
        read = fs.counters(FILM).bytes_read - before
    return [
        Row(
            "first client leaves at 10 %: the copy completes",
            float(complete and read == 0),
            "yes/no",
            aim="yes",
            at_least=1,
            note=f"after {took / bench.ideal:.3f} x ideal; the next client: "
            f"{again.cache_status}, {read} bytes from the source",
        )
    ]


@scenario
def replaced(bench: Bench) -> list[Row]:
    """The source is replaced by rename while it is copied (same size, other bytes and time)."""
    second = Expected("second version", SIZE)
    with bench.directory() as files:
        write(files, FILM, SIZE)
        with bench.site(files) as (_fs, server):
            old = Get(server.address, FILM, bench.film)
            reached = old.mark(SIZE * 3 // 10)
            old.start()
            reached.wait()
            write(files, FILM, SIZE, content_name=second.name, age=1800)
            old.join(REVALIDATE + 0.5)
            new = Get(server.address, FILM, second)
            new.start()
            old_answer, new_answer = old.result(), new.result()
    # A byte of the other version is a wrong byte: all of one content were expected.
    mixed = sum("wrong byte" in answer.error for answer in (old_answer, new_answer))
    cut = sum(answer.received < SIZE for answer in (old_answer, new_answer))
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
def killed(bench: Bench) -> list[Row]:
    """SIGKILL when half is copied, then a new daemon on the same cache."""
    with bench.source() as fs, bench.cache_dir() as cache:
        with daemon(fs, cache) as server:
            player = Get(server.address, FILM, bench.film)
            reached = player.mark(SIZE // 2)
            player.start()
            reached.wait()
            server.kill()
            player.join()
        _until_quiet(fs)
        fs.reset()
        with daemon(fs, cache) as server:
            answer = get(server.address, FILM, bench.film).require()
            read = fs.counters(FILM).bytes_read
    return [
        Row(
            "SIGKILL at half, restart: source bytes read by the next client / size",
            read / SIZE,
            reference=(SIZE - player.answer.received) / SIZE,
            named="(what the first one had not received)",
            aim="<= 0.52",
            at_most=0.52,
            note=f"it took {answer.done / bench.ideal:.3f} x ideal",
        )
    ]


def _until_quiet(fs: SlowFS) -> None:
    """Reads of a killed process still arrive for a moment."""
    last = -1
    while (now := fs.counters().bytes_read) != last:
        last = now
        time.sleep(0.2)


@scenario
def source_down(bench: Bench) -> list[Row]:
    """The source fails, then hangs, after the version was due to be asked for again."""
    size = 8 * MiB
    name = "small.mkv"
    expected = Expected(name, size)
    rows = []
    with bench.directory() as files:
        write(files, name, size)
        for kind, what in (("EIO", "fails (EIO)"), ("hang", "hangs")):
            with bench.site(files) as (fs, server):
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
def bare_mount(bench: Bench) -> list[Row]:
    """For comparison: the slow mount without streamcache."""
    with bench.source() as fs:
        whole = bare.whole(fs, FILM)
        first, mib, player = bare.seek_while_playing(fs, FILM)
    return [
        Row("(bare mount) whole file", whole, "s", bench.ideal, "(ideal)"),
        Row("(bare mount) one seek to 90 %: first byte", milliseconds(first), "ms"),
        Row("(bare mount) ... the whole MiB", milliseconds(mib), "ms"),
        Row("(bare mount) ... that player's time", player, "s", bench.ideal, "(ideal)"),
    ]


def main() -> None:
    """Run the scenarios and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.cold", description=__doc__)
    parser.add_argument("--only", metavar="REGEX", default="", help=", ".join(SCENARIOS))
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures there")
    parser.add_argument("--dir", default="/var/tmp", help="on the disk that caches; %(default)s")
    args = parser.parse_args()
    chosen = [name for name in SCENARIOS if re.search(args.only, name)]
    rows: list[Row] = []
    failed = False
    with tempfile.TemporaryDirectory(prefix="bench-", dir=args.dir) as directory:
        bench = Bench(Path(directory))
        for name in chosen:
            print(f"{name} ...", file=sys.stderr, flush=True)
            try:
                rows += SCENARIOS[name](bench)
            except Exception as error:  # one scenario must not hide the figures of the others
                failed = True
                print(f"{name} failed: {error}", file=sys.stderr)
                rows.append(Row(name, float("nan"), note=f"failed: {error}"))
    print(markdown(rows))
    if args.json:
        figures = as_json(rows, one_read=bench.one_read, ideal=bench.ideal)
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
