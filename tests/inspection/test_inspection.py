"""What is found in a cache directory, subject by subject; ``system/test_verify.py`` has the rest.

Here is what that cannot do from outside: who else is at it, a source that does not answer, and the
damage that is told, or left alone, in a way of its own.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from streamcache.cache import locks
from streamcache.cache.digests import digest
from streamcache.cache.partial import IN_USE
from streamcache.errors import AccessDenied, SourceUnavailable
from streamcache.inspection.findings import Finding, Kind, Repair, Report
from streamcache.inspection.inspection import Inspection
from streamcache.source.base import SourceFile
from streamcache.source.filesystem import FileSystemSource
from tests.cache.another import AnotherProcess
from tests.inspection.filled import NAMES, SIZE, objects, sql


def look(at: Path, **options: object) -> Report:
    with Inspection(str(at), **options) as inspection:
        return inspection.run()


def only(report: Report) -> Finding:
    (finding,) = report.findings
    return finding


def repaired(at: Path) -> Finding:
    """What was wrong, and is not any more."""
    found = only(look(at))
    assert found.repair is Repair.NONE
    done = only(look(at, repair=True))
    assert (done.kind, done.text, done.repair) == (found.kind, found.text, Repair.DONE)
    assert look(at).findings == []
    return done


def partial_file(at: Path, suffix: str) -> Path:
    (path,) = at.glob(f"partial/*.{suffix}")
    return path


# -- the layout


def test_a_file_in_place_of_a_folder_is_left_and_nothing_else_looked_at(at: Path) -> None:
    shutil.rmtree(at / "trash")
    (at / "trash").write_text("somebody's")
    report = look(at, repair=True)
    found = only(report)
    assert (found.kind, found.name, found.text) == (Kind.LAYOUT, "trash", "no directory")
    assert found.repair is Repair.LEFT
    assert report.finished and report.objects == report.partials == 0
    assert (at / "trash").read_text() == "somebody's"


def test_a_cache_of_a_version_without_pins_is_sound(at: Path) -> None:
    os.rmdir(at / "pins")
    assert look(at, repair=True).findings == []


def test_what_a_file_system_keeps_at_its_top_is_nobodys_finding(at: Path) -> None:
    (at / "lost+found").mkdir()
    assert look(at).findings == []
    (at / "lost+found").rmdir()
    (at / "lost+found").touch()
    assert only(look(at)).name == "lost+found"


def test_what_lies_beside_our_folders_is_left_alone(at: Path) -> None:
    (at / "note.txt").write_text("somebody's")
    found = only(look(at, repair=True))
    assert (found.kind, found.name, found.repair) == (Kind.FOREIGN, "note.txt", Repair.LEFT)
    assert (at / "note.txt").read_text() == "somebody's"


# -- the catalog


def test_a_catalog_of_an_unknown_policy_is_set_aside(at: Path) -> None:
    sql(at, "UPDATE state SET policy = 'oldest'")
    found = only(look(at, repair=True))
    assert found.kind is Kind.CATALOG and "unknown policy 'oldest'" in found.text
    assert found.repair is Repair.DONE
    again = only(look(at, repair=True))
    assert "not there; a server makes it anew" in again.text and again.repair is Repair.LEFT


def test_a_catalog_that_is_damaged_where_no_query_looks_is_set_aside(at: Path) -> None:
    sql(at, "PRAGMA journal_mode = DELETE")
    (page,) = sql(at, "SELECT rootpage FROM sqlite_master WHERE name = 'objects_by_path'")
    (size,) = sql(at, "PRAGMA page_size")
    with open(at / "catalog.sqlite", "r+b") as file:
        os.pwrite(file.fileno(), b"\xff" * 100, (page - 1) * size)
    assert only(look(at)).kind is Kind.CATALOG
    found = only(look(at, repair=True))
    assert found.kind is Kind.CATALOG and found.repair is Repair.DONE
    assert (at / "catalog.sqlite.corrupt").exists()


def test_a_catalog_that_somebody_mends_is_left_to_them(at: Path, another: AnotherProcess) -> None:
    sql(at, "UPDATE state SET policy = 'oldest'")
    another.do("from streamcache.cache.database import take_lock")
    assert another.do(f"take_lock({str(at / 'catalog.lock')!r})") >= 0
    assert only(look(at, repair=True)).repair is Repair.LEFT
    another.kill()
    assert only(look(at, repair=True)).repair is Repair.DONE


# -- objects


def test_foreign_folders_of_objects(at: Path) -> None:
    free = next(
        f"{number:02x}" for number in range(256) if not (at / f"objects/{number:02x}").exists()
    )
    (at / "objects" / free).write_text("")
    found = repaired(at)
    assert (found.kind, found.name, found.text) == (
        Kind.FOREIGN,
        f"objects/{free}",
        "no directory",
    )
    (at / "objects" / "zz").mkdir()
    assert only(look(at)).name == "objects/zz"


def test_an_object_that_is_being_evicted_is_not_missing(at: Path) -> None:
    path = objects(at)[0]
    path.unlink()
    os.unlink(f"{path}.sums")
    sql(at, f"UPDATE objects SET leaving = 1 WHERE name = x'{path.name.replace('.', '')}'")
    assert look(at).findings == []
    sql(at, "UPDATE objects SET leaving = 0")
    assert only(look(at)).kind is Kind.MISSING


def test_digests_without_an_object_are_foreign(at: Path) -> None:
    folder = objects(at)[0].parent
    (folder / f"{folder.name}{'ab' * 15}.{'cd' * 16}.sums").write_text("")
    found = repaired(at)
    assert (found.kind, found.text) == (Kind.FOREIGN, "digests of no object")


def test_objects_without_digests_are_counted(at: Path) -> None:
    sql(at, "UPDATE state SET complete = 0")  # or their blocks were counted wrong
    os.unlink(f"{objects(at)[0]}.sums")
    report = look(at, digest=digest())
    assert report.findings == []
    assert (report.digested, report.undigested) == (len(NAMES) - 1, 1)


def test_who_reads_a_damaged_object_goes_on_with_it(at: Path) -> None:
    path = objects(at)[0]
    os.truncate(path, 5)
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        found = repaired(at)
        assert found.kind is Kind.DAMAGED and "5 bytes" in found.text
        (file,) = (at / "trash").iterdir()
        assert os.path.samestat(file.stat(), os.fstat(fd))
        assert sql(at, "SELECT file FROM trash") == [file.name]
    finally:
        os.close(fd)
    found = repaired(at)
    assert (found.kind, found.text) == (Kind.TRASH, "nobody reads it")


def test_an_object_whose_key_is_held_is_counted_and_left(at: Path, another: AnotherProcess) -> None:
    os.truncate(objects(at)[0], 5)
    for path in at.glob("partial/*"):
        path.unlink()
    sql(at, "DELETE FROM reservations")
    sql(at, "UPDATE state SET reserved = 0")
    another.do(f"fd = os.open({str(at / 'lock')!r}, os.O_RDWR)")
    assert another.do("locks.try_lock(fd, 0, 1 << 60)") is True
    report = look(at, repair=True)
    assert report.findings == [] and report.busy == 1
    assert objects(at)[0].stat().st_size == 5
    another.kill()
    assert only(look(at, repair=True)).repair is Repair.DONE


# -- versions at the source


class _Failing(FileSystemSource):
    """One that opens nothing."""

    def __init__(self, root: Path, error: Exception) -> None:
        super().__init__(str(root))
        self.asked = 0
        self._error = error

    def open(self, path: str, ahead: int | None = None) -> SourceFile:
        self.asked += 1
        raise self._error


def test_a_source_that_does_not_answer_is_told_once_and_asked_no_more(
    source: Path, at: Path
) -> None:
    silent = _Failing(source, SourceUnavailable(5, "no answer"))
    report = look(at, source=silent, repair=True)
    found = only(report)
    assert found.kind is Kind.SOURCE and found.path in NAMES and "no answer" in found.text
    assert found.name == found.shown == f"/{found.path}"
    assert found.repair is Repair.LEFT
    assert silent.asked == 3 and report.compared == 0 and report.objects == len(NAMES)


def test_files_that_may_not_be_read_say_nothing_of_the_source(source: Path, at: Path) -> None:
    closed = _Failing(source, AccessDenied(13, "not ours"))
    report = look(at, source=closed, repair=True)
    assert report.findings == [] and report.compared == 0
    assert closed.asked == len(NAMES)


def test_objects_of_another_source_are_not_compared(source: Path, at: Path) -> None:
    for name in NAMES:
        (source / name).unlink()
    report = look(at, source=FileSystemSource(str(source), id="another"), repair=True)
    assert report.findings == [] and report.compared == 0
    assert {
        finding.kind for finding in look(at, source=FileSystemSource(str(source))).findings
    } == {Kind.GONE}


def test_the_source_tells_of_damage_that_an_incomplete_catalog_does_not(
    source: Path, at: Path
) -> None:
    sql(at, "UPDATE state SET complete = 0")
    short, written = objects(at)[:2]
    times = short.stat()
    os.truncate(short, 5)
    os.utime(short, ns=(times.st_atime_ns, times.st_mtime_ns))
    with open(written, "r+b") as file:
        file.write(b"other")
    assert look(at).findings == []
    report = look(at, source=FileSystemSource(str(source)))
    told = [(finding.kind, finding.name, finding.text) for finding in report.findings]
    assert told == [
        (Kind.DAMAGED, short.name, f"5 bytes, {SIZE} expected"),
        (Kind.DAMAGED, written.name, "somebody has written to it"),
    ]


# -- partials


def lose_the_map(at: Path) -> None:
    partial_file(at, "map").unlink()


def lose_the_data(at: Path) -> None:
    partial_file(at, "data").unlink()


def another_boot(at: Path) -> None:
    path = partial_file(at, "map")
    raw = path.read_bytes()
    boot = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    assert boot in raw
    path.write_bytes(raw.replace(boot, boot[::-1]))


def count_too_little(at: Path) -> None:
    sql(at, "UPDATE reservations SET bytes = 4096")
    sql(at, "UPDATE state SET reserved = 4096")


def not_counted(at: Path) -> None:
    sql(at, "DELETE FROM reservations")
    sql(at, "UPDATE state SET reserved = 0")


@pytest.mark.parametrize(
    ("damage", "kind", "text", "kept"),
    [
        (lose_the_map, Kind.PARTIAL, "no map says what is in it", False),
        (lose_the_data, Kind.PARTIAL, "a map without a copy", False),
        (another_boot, Kind.PARTIAL, "cannot be continued", False),
        (count_too_little, Kind.ACCOUNT, "4096 counted", True),
        (not_counted, Kind.ACCOUNT, " 0 counted", False),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_partials(
    at: Path, damage: Callable[[Path], None], kind: Kind, text: str, kept: bool
) -> None:
    damage(at)
    found = repaired(at)
    assert found.kind is kind and text in found.text
    assert bool(list(at.glob("partial/*.data"))) is kept


def test_a_partial_that_somebody_works_on_is_left_alone(at: Path) -> None:
    os.truncate(partial_file(at, "data"), 5)
    fd = os.open(partial_file(at, "map"), os.O_RDWR)
    try:
        assert locks.try_lock(fd, IN_USE, 1, shared=True)
        report = look(at, repair=True)
        assert report.findings == [] and report.partials == 1
    finally:
        os.close(fd)
    assert repaired(at).kind is Kind.PARTIAL


def test_a_reservation_may_be_without_a_partial_for_a_while(at: Path) -> None:
    for path in at.glob("partial/*"):
        path.unlink()
    sql(at, f"UPDATE reservations SET used = {time.time()}")
    assert look(at, repair=True).findings == []
    sql(at, f"UPDATE reservations SET used = {time.time() - 3600}")
    found = repaired(at)
    assert found.kind is Kind.ACCOUNT and "bytes reserved for no partial" in found.text
