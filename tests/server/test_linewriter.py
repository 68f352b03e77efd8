"""A log file that hangs, fills up or is renamed: nobody waits, no line is torn, losses are said."""

from __future__ import annotations

import os
import re
import threading

import gevent
import pytest

from streamcache.server import linewriter
from streamcache.server.linewriter import LINES_HELD, LineWriter
from tests.server.client import eventually

LONG = "x" * 999 + "\n"


def read_pipe(fd: int, most: int = 1 << 16) -> bytes:
    return gevent.get_hub().threadpool.apply(os.read, (fd, most))


def test_lines_are_written_when_many_are_held(tmp_path):
    log = LineWriter(str(tmp_path / "log"))
    for _ in range(LINES_HELD - 1):
        log.add("x\n")
    assert (tmp_path / "log").read_text() == ""
    log.add("x\n")
    eventually(lambda: (tmp_path / "log").read_text() == "x\n" * LINES_HELD)
    log.add("last\n")
    log.close()
    assert (tmp_path / "log").read_text().endswith("last\n")


def test_a_file_is_appended_to(tmp_path):
    (tmp_path / "log").write_text("before\n")
    log = LineWriter(str(tmp_path / "log"))
    log.add("after\n")
    log.close()
    assert (tmp_path / "log").read_text() == "before\nafter\n"


def test_stderr_is_written_whatever_python_made_of_it(capfd):
    log = LineWriter("-")
    log.add("line\n")
    log.reopen()
    log.add("another\n")
    log.close()
    assert capfd.readouterr().err == "line\nanother\n"


def test_what_does_not_keep_up_holds_nobody_and_what_was_lost_is_said(monkeypatch, caplog):
    monkeypatch.setattr(linewriter, "BYTES_HELD", 2 * LINES_HELD * 1000)
    reader, writer = os.pipe()
    log = LineWriter(f"/proc/self/fd/{writer}")
    os.close(writer)
    for _ in range(10 * LINES_HELD):  # a pipe takes 64 KiB: the first write waits
        log.add(LONG)
    log.flush()
    assert caplog.text.count("reason=the disk does not keep up") == 1
    assert log.lost == 7 * LINES_HELD
    received = 0
    while received < 3 * LINES_HELD * 1000:
        received += len(read_pipe(reader))
    eventually(lambda: not log._worker.pending)
    log.add("last\n")
    log.flush()
    assert f"is written again file='/proc/self/fd/{writer}' lost={7 * LINES_HELD}" in caplog.text
    log.close()
    assert os.read(reader, 1 << 16) == b"last\n"
    os.close(reader)
    assert caplog.text.count("lost=") == 1


def test_a_fifo_that_nobody_reads_holds_nobody(tmp_path, caplog, monkeypatch):
    """Neither opening it, nor writing, nor closing; a reader that comes late finds the start."""
    monkeypatch.setattr(linewriter, "BYTES_HELD", 200_000)
    monkeypatch.setattr(linewriter, "CLOSE_WAIT", 0.05)
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    log = LineWriter(fifo)
    for _ in range(3 * LINES_HELD):
        log.add(LONG)
    log.reopen()
    log.close()
    assert log.lost == 2 * LINES_HELD
    assert f"access log lost lines={2 * LINES_HELD}" in caplog.text
    reader = os.open(fifo, os.O_RDONLY)
    received = b""
    while len(received) < LINES_HELD * 1000:
        received += read_pipe(reader)
    assert received == LONG.encode() * LINES_HELD
    os.close(reader)
    assert log._worker.join(5)
    os.close(log._fd)


def test_a_disk_that_is_full_loses_lines_and_tears_none_of_the_others(tmp_path, caplog):
    """A limit on the size of files stands for the disk: the kernel takes a part, then an error."""
    import resource
    import signal

    path = tmp_path / "log"
    log = LineWriter(str(path))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2505, before[1]))
        for _ in range(10):
            log.add(LONG)
        log.flush()
        eventually(lambda: not log._worker.pending)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.stat().st_size == 2505
    log.add("whole\n")
    log.flush()
    assert caplog.text.count("reason=[Errno 27]") == 1
    eventually(lambda: not log._worker.pending)
    log.add("last\n")
    log.close()
    assert path.read_text() == 2 * LONG + "x" * 505 + "\nwhole\nlast\n"
    assert log.lost == 8
    assert f"is written again file={str(path)!r} lost=8" in caplog.text


def test_a_full_disk_is_said_once(caplog):
    log = LineWriter("/dev/full")
    for _ in range(3):
        log.add("x\n")
        log.flush()
        eventually(lambda: not log._worker.pending)
    log.close()
    assert caplog.text.count("cannot be written") == 1
    assert "access log lost lines=3" in caplog.text


def test_after_a_rename_new_lines_go_to_a_new_file_and_each_line_is_in_one_of_the_two(tmp_path):
    path = tmp_path / "log"
    log = LineWriter(str(path))
    for number in range(1000):
        log.add(f"{number}\n")
        if number % 100 == 50:
            eventually(path.exists)
            os.rename(path, tmp_path / f"log.{number}")
            log.reopen()
    log.close()
    texts = [
        each.read_text() for each in sorted(tmp_path.iterdir(), key=lambda p: p.stat().st_mtime_ns)
    ]
    assert len(texts) == 11
    assert all(re.fullmatch(r"(\d+\n)+", text) for text in texts)
    assert sorted(map(int, "".join(texts).split())) == list(range(1000))
    assert path.read_text().split()[-1] == "999"


def test_a_log_that_cannot_be_opened_again_goes_on_in_the_old_file(tmp_path, caplog):
    folder = tmp_path / "logs"
    folder.mkdir()
    log = LineWriter(str(folder / "log"))
    os.rename(folder, tmp_path / "moved")
    log.reopen()
    log.add("kept\n")
    log.flush()
    eventually(lambda: not log._worker.pending)
    log.close()
    assert (tmp_path / "moved" / "log").read_text() == "kept\n"
    assert caplog.text.count("not opened, the one before is written on") == 1
    assert log.lost == 0


def test_opening_it_anew_never_waits_for_the_disk(tmp_path, monkeypatch):
    log = LineWriter(str(tmp_path / "log"))
    hangs, real = threading.Event(), linewriter.open_log

    def slow(path: str) -> int:
        hangs.wait(10)
        return real(path)

    monkeypatch.setattr(linewriter, "open_log", slow)
    os.rename(tmp_path / "log", tmp_path / "before")
    log.reopen()
    log.add("x\n")
    log.flush()  # and none of these waited
    assert not (tmp_path / "log").exists()
    hangs.set()
    log.close()
    assert (tmp_path / "log").read_text() == "x\n"
    assert (tmp_path / "before").read_text() == ""


def test_what_cannot_be_opened_is_an_error(tmp_path):
    with pytest.raises(IsADirectoryError):
        LineWriter(str(tmp_path))
