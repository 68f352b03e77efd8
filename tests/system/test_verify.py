"""``streamcache verify``: it finds what is wrong, takes nothing sound for wrong, and repairs it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import gevent
import gevent.subprocess
import pytest

from streamcache import CacheStatus, StreamCache
from streamcache.cache.blockmap import BLOCK
from streamcache.cli import main
from tests.content import write
from tests.inspection.filled import NAMES, PARTIAL_SIZE, SIZE, fill, objects, sql
from tests.system.conftest import OpenCache
from tests.system.site import (
    MiB,
    assert_right,
    fetch,
    files_below,
    settle,
)

REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.usefixtures("no_settings")


@pytest.fixture
def at(source: Path, tmp_path: Path) -> Path:
    at = tmp_path / "cache"
    fill(source, at)
    return at


def verify(capsys: pytest.CaptureFixture[str], at: Path, *flags: str) -> tuple[int, str]:
    """Exit code and what was printed."""
    try:
        code = main(["verify", "--cache-dir", str(at), *flags])
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    out, err = capsys.readouterr()
    return code, out + err


def contents(at: Path) -> dict[str, tuple[int, int]]:
    return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in files_below(at).items()}


# Each is done to a sound cache: what is found then.
Damage = Callable[[Path, Path], object]


def truncated(at: Path, source: Path) -> None:
    os.truncate(objects(at)[0], SIZE - 1)


def overwritten(at: Path, source: Path) -> None:
    # Of a copy that is older than the grain of what is compared.
    sql(at, "UPDATE objects SET created = created - 60")
    with open(objects(at)[0], "r+b") as file:
        file.write(b"other")


def rotten(at: Path, source: Path) -> None:
    path = objects(at)[0]
    times = path.stat()
    with open(path, "r+b") as file:
        file.seek(BLOCK + 1)
        file.write(b"\0rot")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def rotten_partial(at: Path, source: Path) -> None:
    with open(next(at.glob("partial/*.data")), "r+b") as file:
        for offset in range(0, PARTIAL_SIZE, BLOCK):  # whichever are there
            os.pwrite(file.fileno(), b"\0rot", offset)


def folder_for_an_object(at: Path, source: Path) -> None:
    path = objects(at)[0]
    path.unlink()
    path.symlink_to("/etc/passwd")


def changed_at_the_source(at: Path, source: Path) -> None:
    write(source, NAMES[0], SIZE, content_name="new", age=1800)


def gone_from_the_source(at: Path, source: Path) -> None:
    (source / NAMES[0]).unlink()


def unknown_to_the_catalog(at: Path, source: Path) -> None:
    sql(at, f"DELETE FROM objects WHERE name = x'{objects(at)[0].name.replace('.', '')}'")


def missing(at: Path, source: Path) -> None:
    path = objects(at)[0]
    path.unlink()
    os.unlink(f"{path}.sums")


def counted_wrong(at: Path, source: Path) -> None:
    sql(at, "UPDATE objects SET blocks = blocks + 4096")


def totals_wrong(at: Path, source: Path) -> None:
    sql(at, "UPDATE state SET objects = objects + 1, count = count + 1")


def foreign_files(at: Path, source: Path) -> None:
    (at / "partial" / "note.txt").write_text("somebody's")
    (objects(at)[0].parent / "note.txt").write_text("somebody's")
    os.mkfifo(at / "objects" / "pipe")


def lonely_digests(at: Path, source: Path) -> None:
    folder = objects(at)[0].parent
    (folder / f"{folder.name}{'ab' * 15}.{'cd' * 16}.sums").write_text("")


def broken_map(at: Path, source: Path) -> None:
    os.truncate(next(at.glob("partial/*.map")), 100)


def unread_trash(at: Path, source: Path) -> None:
    (at / "trash" / "left").write_bytes(bytes(10_000))


def trash_that_is_counted(at: Path, source: Path) -> None:
    sql(at, "INSERT INTO trash VALUES ('none', 4096)")
    sql(at, "UPDATE state SET trash = trash + 4096")


def removed_folder(at: Path, source: Path) -> None:
    shutil.rmtree(at / "trash")


def no_catalog_to_read(at: Path, source: Path) -> None:
    real = os.path.realpath(at / "catalog.sqlite")
    for path in at.glob("catalog-*-wal"):
        path.unlink()
    with open(real, "r+b") as file:
        file.write(os.urandom(8192))


DAMAGES: list[tuple[Damage, str]] = [
    (truncated, "damaged"),
    (overwritten, "damaged"),
    (rotten, "damaged"),
    (rotten_partial, "damaged"),
    (folder_for_an_object, "damaged"),
    (changed_at_the_source, "outdated"),
    (gone_from_the_source, "gone"),
    (unknown_to_the_catalog, "unlisted"),
    (missing, "missing"),
    (counted_wrong, "account"),
    (totals_wrong, "account"),
    (foreign_files, "foreign"),
    (lonely_digests, "foreign"),
    (broken_map, "partial"),
    (unread_trash, "trash"),
    (trash_that_is_counted, "trash"),
    (removed_folder, "layout"),
    (no_catalog_to_read, "catalog"),
]


def test_a_sound_cache_is_sound(source: Path, at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = verify(capsys, at, "--source", str(source), "--digests")
    assert code == 0, said
    assert "6 objects" in said and "1 partial;" in said
    assert "6 compared with the source; 6 with their digests, 0 have none; nothing wrong" in said


@pytest.mark.parametrize(
    ("damage", "kind"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES]
)
def test_what_is_wrong_is_found_and_repaired(
    source: Path, at: Path, capsys: pytest.CaptureFixture[str], damage: Damage, kind: str
) -> None:
    damage(at, source)
    before = contents(at)
    flags = ("--source", str(source), "--digests")
    code, said = verify(capsys, at, *flags)
    assert code == 1, said
    kinds = {line.split()[0] for line in said.splitlines() if not line[0].isdigit()}
    assert kind in kinds and len(kinds) <= 2, said
    assert contents(at) == before, "nothing was to be repaired"

    code, said = verify(capsys, at, *flags, "--repair")
    assert code == 1, said
    assert "all repaired" in said, said
    code, said = verify(capsys, at, *flags)
    if kind == "catalog":
        assert code == 1 and "a server makes it anew" in said
    else:
        assert code == 0, said

    left = [name for name in NAMES if (source / name).exists()]
    with StreamCache(source, at, "1GB") as cache:
        for name in left:
            content = "new" if damage is changed_at_the_source and name == NAMES[0] else name
            assert_right(fetch(cache, name), content, SIZE)
        settle(cache, at)
        assert fetch(cache, left[-1]).status is CacheStatus.HIT


def test_it_tells_a_program(source: Path, at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truncated(at, source)
    code, said = verify(capsys, at, "--json")
    found: dict[str, Any] = json.loads(said)
    assert code == 1 and found["finished"] and found["objects"] == 6
    (finding,) = found["findings"]
    assert finding["kind"] == "damaged"
    assert finding["path"] in [f"/{name}" for name in NAMES]  # as clients, ls and the log have it
    assert finding["repair"] == "none" and finding["name"] == objects(at)[0].name
    code, said = verify(capsys, at)
    assert f"damaged   {finding['name']} {finding['path']}: " in said


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--cache-dir", "/no/such/place"], "is no cache directory of streamcache"),
        (["--cache-dir", "/tmp"], "is no cache directory of streamcache"),
        ([], "no --cache-dir given"),
        (["--cache-dir", "AT", "--source", "/no/such/place"], "--source: '/no/such/place' is no"),
        (["--cache-dir", "AT", "--fix"], "unrecognized arguments: --fix"),
    ],
)
def test_usage(at: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str) -> None:
    given = [str(at) if flag == "AT" else flag for flag in flags]
    try:
        code = main(["verify", *given])
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    assert code == 2
    assert words in capsys.readouterr().err


def test_a_source_that_is_not_mounted_is_not_compared_with(
    source: Path, at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or all objects were gone from it."""
    known = json.loads((at / "mounts").read_text())
    (at / "mounts").write_text(json.dumps({name: str(source) for name in known}))
    code, said = verify(capsys, at, "--source", str(source), "--repair")
    assert code == 2 and "is not mounted" in said
    assert len(objects(at)) == 6


# -- beside servers


def command(at: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "streamcache", "verify", "--cache-dir", str(at), *flags]


def test_what_a_server_is_doing_is_not_taken_for_damage(
    source: Path, at: Path, open_cache: OpenCache
) -> None:
    """Copies, evictions and replacements go on meanwhile, and nothing is found or broken."""
    random = Random(7)
    names = [f"other{number}" for number in range(12)]
    for name in names:
        write(source, name, SIZE)
    cache = open_cache(source, 4 * MiB, at=at, cache={"checksum": "xxh3"})
    stop = False

    def use() -> None:
        while not stop:
            name = random.choice([*names, *NAMES])
            assert_right(fetch(cache, name), name, SIZE)
            gevent.sleep(0.001)

    users = [gevent.spawn(use) for _ in range(4)]
    for flags in ([], ["--digests", "--repair", "--source", str(source)]) * 2:
        done = gevent.subprocess.run(
            command(at, *flags), cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    stop = True
    gevent.joinall(users, raise_error=True)
    assert cache.statistics().evictions > 0
    settle(cache, at)


def test_damage_beside_a_server_is_repaired(source: Path, at: Path, open_cache: OpenCache) -> None:
    cache = open_cache(source, at=at)
    fetch(cache, NAMES[0], 0, 10)
    rotten(at, source)
    done = gevent.subprocess.run(
        command(at, "--digests", "--repair"),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "1 problem, all repaired" in done.stdout, done.stdout
    cache._parts.objects.let_go_of_removed()
    for name in NAMES:
        assert_right(fetch(cache, name), name, SIZE)
    settle(cache, at)


def test_ctrl_c_ends_it_tidily(source: Path, at: Path) -> None:
    reader, writer = os.openpty()
    try:
        # It waits for a key that somebody holds, as long as that takes.
        path = objects(at)[0]
        os.truncate(path, 5)
        lock = os.open(at / "lock", os.O_RDWR)
        from streamcache.cache import locks

        assert locks.try_lock(lock, 0, 1 << 60)
        process = subprocess.Popen(
            command(at),
            cwd=REPOSITORY,
            env={**os.environ, "TERM": "xterm"},
            stdout=subprocess.PIPE,
            stderr=writer,
            text=True,
        )
        shown = b""
        while b"objects" not in shown:  # the bar, as that is a terminal
            shown += os.read(reader, 1000)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
        os.close(lock)
        assert process.returncode == 130, out
        assert "interrupted after" in out and "Traceback" not in out
    finally:
        os.close(reader)
        os.close(writer)
    started = time.monotonic()
    with StreamCache(source, at, "1GB") as cache:  # nothing is locked
        assert_right(fetch(cache, NAMES[1]), NAMES[1], SIZE)
    assert time.monotonic() - started < 20


def test_digests_need_their_package(
    at: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "xxhash", None)
    assert verify(capsys, at)[0] == 0
    code, said = verify(capsys, at, "--digests")
    assert code == 2
    assert "--digests: needs the package xxhash; install it: " in said
