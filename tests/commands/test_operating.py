"""The commands that ask a server, and a real one with two workers that is asked."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamcache.commands import ls, status
from tests.commands.running import Ended, Terminal, call, command, environment
from tests.content import write
from tests.daemon_process import DaemonProcess
from tests.requirements import missing
from tests.slowfs import SlowFS, unsupported
from tests.slowfs.model import WRITING
from tests.system.site import eventually

SIZE = 300_000


class Site:
    """A daemon, its source, and its admin socket."""

    def __init__(self, source: Path, daemon: DaemonProcess, admin: str) -> None:
        self.source = source
        self.daemon = daemon
        self.admin = admin

    def put(self, *names: str, size: int = SIZE) -> None:
        for name in names:
            (self.source / name).parent.mkdir(parents=True, exist_ok=True)
            write(self.source, name, size)

    def get(self, path: str) -> str:
        """How it was answered."""
        with urllib.request.urlopen(f"{self.daemon.url}{path}", timeout=20) as answer:
            answer.read()
            found = re.search(r"hit|collapsed|stored|stale|bypass", answer.headers["Cache-Status"])
        assert found is not None
        return found[0]

    def ask(self, *arguments: str, stdin: str = "") -> Ended:
        return call(*arguments, stdin=stdin, STREAMCACHE_SERVER_ADMIN=self.admin)

    def json(self, *arguments: str) -> object:
        done = self.ask(*arguments, "--json")
        assert done.err == "", done.err
        return json.loads(done.out)


def start(
    source: Path, folder: Path, *flags: str, cache_dir: Path | None = None, workers: int = 2
) -> Iterator[Site]:
    given = ("--admin", admin := f"unix:{folder / 'admin.sock'}", *flags)
    with DaemonProcess(source, *given, cache_dir=cache_dir, workers=workers) as daemon:
        yield Site(source, daemon, admin)
        assert not daemon.crashed, daemon.log


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One for all tests that change nothing but their own folder of it."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "source").mkdir()
    yield from start(folder / "source", folder)


@pytest.fixture
def slow(slowfs: SlowFS, tmp_path: Path) -> Iterator[Site]:
    """Of a slow source, where a copy can be looked at."""
    slowfs.set(latency=0, meta_latency=0, bandwidth=1 << 20)
    for site in start(slowfs.path, tmp_path, workers=1):
        site.source = slowfs.backing
        yield site


@pytest.fixture
def impatient(slowfs: SlowFS, tmp_path: Path) -> Iterator[Site]:
    """Of a network file system that is soon held for one that does not answer."""
    slowfs.set(latency=0, meta_latency=0, bandwidth=0)
    options = tmp_path / "streamcache.toml"
    options.write_text('[source]\ntimeout = "500ms"\n')
    for site in start(slowfs.path, tmp_path, "--config", str(options), workers=1):
        site.source = slowfs.backing
        yield site


def test_status(site: Site) -> None:
    done = site.ask("status")
    assert (done.code, done.err) == (0, "")
    lines = dict(line.split("  ", 1) for line in done.out.splitlines() if line[:1] != " ")
    assert lines["server"].strip().startswith(f"{site.daemon.url}")
    assert "2 of 2 running" in done.out
    assert f"{site.source}  answers" in done.out
    told = site.json("status")
    assert told["url"].rstrip("/") == site.daemon.url.rstrip("/")
    assert site.ask("status", "--json").out.count("\n") == 1  # as it came


def test_stale_answers_are_hits_and_draining_has_a_time_of_its_own(site: Site) -> None:
    told = site.json("status")
    told["totals"]["requests"] = {"hit": 2, "stale": 4, "collapsed": 1, "miss": 1, "bypass": 0}
    told["uptime"] = 9000
    assert "requests     8, 75.0 % hits" in status.shown(told)
    assert "serving for 2 h 30 min" in status.shown(told)
    told |= {"draining": True, "draining_since": time.time() - 300}
    told["workers"][1] = {"name": "w2", "state": "ended"}
    shown = status.shown(told)
    assert "draining for 5 min" in shown
    assert "1 of 2 running (w2 ended)" in shown


@pytest.mark.parametrize(
    ("disk", "said"),
    [
        ({}, None),
        ({"stuck": 1}, "answers, 1 thread stuck in it"),
        ({"failing": ["w2"]}, "nothing new is cached by w2 (the log says why)"),
        ({"failing": ["w2"], "reason": "E\x1bIO"}, "nothing new is cached by w2: E\\x1bIO"),
        (
            {"failing": ["w1", "w2"], "reason": "no answer for 5 s", "stuck": 3},
            "nothing new is cached: no answer for 5 s, 3 threads stuck in it",
        ),
    ],
)
def test_what_is_wrong_with_the_cache_disk_is_said(
    site: Site, disk: dict[str, object], said: str | None
) -> None:
    told = site.json("status")
    told["cache"]["disk"] = {"reason": "", "stuck": 0, "failing": [], **disk}
    told["cache"]["disk"]["normal"] = not told["cache"]["disk"]["failing"]
    found = re.search(r"^disk +(.*)$", status.shown(told), re.M)
    assert (found[1] if found else None) == said


@pytest.fixture
def disk() -> Iterator[SlowFS]:
    """For the cache, and it fails when it is told to."""
    if (reason := unsupported()) is not None:
        missing(reason)
    known = {"attr_timeout": 1e6, "entry_timeout": 1e6}
    with SlowFS(writable=True, latency=0, meta_latency=0, bandwidth=0, **known) as mounted:
        yield mounted


@pytest.fixture
def failing(disk: SlowFS, tmp_path: Path) -> Iterator[Site]:
    """With its cache on that disk."""
    (tmp_path / "source").mkdir()
    yield from start(tmp_path / "source", tmp_path, cache_dir=disk.path / "cache", workers=1)


def test_a_cache_disk_that_fails_is_seen_by_who_looks_and_so_is_that_it_works_again(
    failing: Site, disk: SlowFS
) -> None:
    failing.put("a")

    def said(*arguments: str) -> str | None:
        done = failing.ask(*arguments)
        assert done.code == 0, done.err
        found = re.search(r"^disk +(.*?) *$", done.out, re.M)
        return found[1] if found else None

    assert said("status") is None
    disk.fault("EIO", operations=WRITING)
    failing.get("/a")
    eventually(lambda: said("status") == "nothing new is cached: Input/output error")
    top = ("top", "--once", "--interval", "0.1")
    assert said(*top) == "nothing new is cached: Input/output error"
    disk.release()
    eventually(lambda: said("status") is None)
    assert said(*top) is None


def test_warm_then_list_then_purge(site: Site) -> None:
    site.put("w/1", "w/2", "w/b/3", "w/.4")
    done = site.ask("warm", "/w/", "--dry-run")
    assert (done.code, done.out) == (0, "3 files, 900 kB, 0 of them there already\n")
    done = site.ask("warm", "/w/", "--max-bandwidth", "100MB", "--at-once", "3")
    assert (done.code, done.out) == (0, "3 of 3 files in the cache, 900 kB of 900 kB\n"), done.err
    assert site.get("w/1") == "hit"
    done = site.ask("ls", "/w/")
    assert [line.split()[-1] for line in done.out.splitlines()] == [
        *("PATH", "/w/1", "/w/2", "/w/b/3"),
    ]
    assert done.out.splitlines()[1].startswith("300 kB  ")
    done = site.ask("ls", "/w/*", "--limit", "1", "--reverse")
    assert done.out.splitlines()[1].endswith("/w/2") and "1 more; --limit 0" in done.err
    assert site.ask("purge", "/w/*", "--dry-run").out.startswith("2 files would go, 6")
    assert site.ask("purge", "/w/1").out.startswith("1 file purged, 3")
    assert site.get("w/1") == "stored"
    done = site.ask("purge", "/w/", "--soft")
    assert done.out.endswith("will be checked before the next use\n")
    purged = site.ask("purge", "/w/", "/w/none", "--json").out.splitlines()
    assert [json.loads(one)["dry_run"] for one in purged] == [False, False]
    assert json.loads(purged[1])["matched"] == 0
    done = site.ask("ls", "/w/")
    assert (done.code, done.out) == (0, "") and "nothing that is meant" in done.err


def test_files_of_another_source_are_told_and_not_taken_for_ours(
    site: Site, tmp_path: Path
) -> None:
    site.put("o/1")
    assert site.ask("warm", "/o/").code == 0
    (tmp_path / "films").mkdir()
    flags = ("--cache-dir", str(site.daemon.cache_dir))
    for theirs in start(tmp_path / "films", tmp_path, *flags, workers=1):
        theirs.put("o/1", "o/2", size=SIZE // 2)
        assert theirs.ask("warm", "/o/").code == 0
        done = theirs.ask("ls", "/o/")
        assert [line.split()[-1] for line in done.out.splitlines()] == ["PATH", "/o/1", "/o/2"]
        assert re.match(r"1 file of other sources not shown, 30\d kB on disk", done.err), done.err
        done = site.ask("ls", "/o/", "--all-sources")
        assert done.err == ""
        shown = [line.partition("/o/")[2] for line in done.out.splitlines()[1:]]
        assert sorted(shown) == ["1", "1 (not of this source)", "2 (not of this source)"]
        assert theirs.ask("purge", "/o/").out.startswith("2 files purged")
    assert site.json("ls", "/o/")["count"] == 1


def test_lists_of_paths_and_what_fails(site: Site, tmp_path: Path) -> None:
    site.put("l/1", "l/2", "l/3")
    names = tmp_path / "names"
    names.write_text("# a list\n/l/1\nl/2\n\n/l/none\n")
    done = site.ask("warm", "--from", str(names), "/l/3")
    assert done.code == 1
    assert done.out == "3 of 3 files in the cache, 900 kB of 900 kB\n"
    assert done.err == "not warmed: /l/none: No such file or directory\n"
    job = site.json("warm", "/l/1")
    assert (job["state"], job["files_done"]) == ("done", 1)
    assert site.ask("warm", "/l/", "--dry-run").code == 0
    listed = site.ask("warm", "--list").out
    assert re.search(rf"^{job['id']}  done +/l/1  +1 of 1 file in the cache", listed, re.M), listed
    assert re.search(r"done, dry run  /l/ +3 files, 900 kB, 3 of them there already$", listed, re.M)
    assert site.ask("warm", "--cancel", job["id"]).out == f"{job['id']} had ended already: done\n"
    done = site.ask("warm", "/l/", "--list")
    assert done.code == 2 and "take no TARGET" in done.err
    assert site.json("warm", "--status", job["id"])["id"] == job["id"]
    done = site.ask("warm", "--status", "nothing")
    assert done.code == 1 and "there is no job 'nothing'" in done.err
    begun = site.ask("warm", "-", "--from", "-", "--detach", stdin="/l/2\n")
    assert begun.code == 0
    done = site.ask("warm")
    assert done.code == 2 and "name what is to be warmed" in done.err
    done = site.ask("warm", "/none/")
    assert done.code == 1 and "No such file or directory" in done.err


def test_pin_and_unpin(site: Site) -> None:
    site.put("p/1", "p/2")
    assert site.ask("warm", "/p/1").code == 0
    assert site.ask("pin", "/p/1").out == "1 file pinned\n"
    assert site.ask("pin", "/p/2").out == "/p/2 is pinned, and not in the cache yet\n"
    assert "  pin  /p/1" in site.ask("ls", "/p/").out
    assert ", pinned" in site.ask("show", "/p/1").out
    assert site.ask("show", "/p/2").out.splitlines()[1] == "not in the cache, pinned"
    assert site.ask("pin", "--list").out == "/p/1\n/p/2\n"
    assert site.json("pin", "--list") == {"paths": ["/p/1", "/p/2"]}
    assert site.ask("pin", "/p/2", "--remove").out == "1 file unpinned\n"  # of what is not cached
    assert site.ask("pin", "/p/2", "--remove").out == "0 files unpinned\n"
    assert site.json("pin", "/p/", "--remove") == {"matched": 1, "paths": 1}
    assert "pin" not in site.ask("ls", "/p/").out.splitlines()[1]
    done = site.ask("pin", "--list")
    assert (done.code, done.out, done.err) == (0, "", "nothing is pinned\n")
    done = site.ask("pin", "/p/1", "--list")
    assert done.code == 2 and "takes no TARGET: '/p/1'" in done.err
    done = site.ask("pin")
    assert done.code == 2 and "name what is to be pinned" in done.err


def test_show(site: Site) -> None:
    site.put("s/1")
    assert site.get("s/1") == "stored"
    eventually(lambda: site.json("show", "/s/1")["entries"])
    site.get("s/1")
    done = site.ask("show", "/s/1")
    assert done.code == 0
    assert re.search(r"^cached   300 kB, 30\d kB on disk$", done.out, re.MULTILINE)
    assert re.search(r"^source  has version [0-9a-f]{32}; .* \(w[12]\)$", done.out, re.MULTILINE)
    done = site.ask("show", "/s/none")
    assert (done.code, done.out) == (1, "/s/none\nnot in the cache\n")
    with pytest.raises(urllib.error.HTTPError):
        site.get("s/none")
    done = site.ask("show", "/s/none")
    assert done.code == 1, "nobody has such a file, although that is known"
    assert "has no such file" in done.out


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("show", "/"), "names no file"),
        (("show", "/../x"), "names no file"),
        (("show", f"/{'a' * 9000}"), "too long"),
        (("warm", "/s/1", "--at-once", "0"), "at_once"),
        (("purge", "/../x"), "names no file"),
        (("ls", "/[a/*.mp4"), "glob"),
    ],
)
def test_what_the_server_says_of_an_argument_is_a_mistake_and_no_failure(
    site: Site, arguments: tuple[str, ...], why: str
) -> None:
    done = site.ask(*arguments)
    assert (done.code, done.out) == (2, "")
    assert why in done.err
    assert len(done.err.splitlines()) == 1


def test_a_copy_that_is_under_way(slow: Site) -> None:
    slow.put("f", size=8 << 20)
    with urllib.request.urlopen(f"{slow.daemon.url}f", timeout=20) as answer:
        answer.read(1000)
        eventually(lambda: "copying" in slow.ask("show", "/f").out)
        shown = slow.ask("show", "/f").out
        copying = r"^copy     copying in w1: .* of 8\.39 MB \(\d+\.\d %\)$"
        assert re.search(copying, shown, re.M), shown
        assert re.search(r"^\[[#+>-]{60}\]$", shown, re.M)
        top = slow.ask("top", "--once", "--interval", "0.3")
        assert top.code == 0
        assert re.search(r"/f +\[[#+>-]+\] +\d+\.\d % +8\.39 MB", top.out), top.out
        assert "\x1b" not in top.out


def test_what_is_left_of_a_copy_is_shown(slow: Site) -> None:
    slow.put("f", size=8 << 20)
    job = slow.ask("warm", "/f", "--detach").out.strip()
    eventually(lambda: slow.json("warm", "--status", job)["bytes_done"])
    assert slow.ask("warm", "--cancel", job).code == 0
    eventually(lambda: slow.json("show", "/f")["partials"])
    done = slow.ask("show", "/f")
    assert done.code == 0
    form = (
        r"^unfinished  .* of 8\.39 MB \(\d+\.\d %\), and nobody copies it now; the next copy goes"
    )
    assert re.search(form, done.out, re.M), done.out
    assert "not in the cache" not in done.out
    (partial,) = slow.json("show", "/f")["partials"]
    assert 0 < partial["present"] < partial["size"] == 8 << 20


def test_top_is_live_on_a_terminal_and_ends_with_ctrl_c(site: Site) -> None:
    with Terminal("top", "--interval", "0.2", "--admin", site.admin) as top:
        shown = top.until("no copy is under way")
        assert "\x1b[?1049h" in shown  # the terminal's second screen
        assert "2 of 2 workers" in shown
        top.write("\x03")
        assert top.end() == 0
        assert "\x1b[?1049l" in top.seen  # and back


def test_a_job_whose_source_does_not_answer_says_so_and_may_end(
    impatient: Site, slowfs: SlowFS
) -> None:
    impatient.put("f")
    away = slowfs.fault("hang")
    job = impatient.ask("warm", "/f", "--detach").out.strip()
    eventually(lambda: impatient.json("warm", "--status", job)["waiting"])
    said = r"running, waiting: (nothing has come from the source for|the source does not answer)"
    assert re.search(rf"^{job}  {said}.*  /f  ", impatient.ask("warm", "--list").out, re.M)
    assert re.match(said, impatient.ask("warm", "--status", job).out)
    done = impatient.ask("warm", "/f", "--timeout", "900ms")
    assert done.code == 1
    assert "not warmed: /f: given up, as nothing has come for 1 s" in done.err
    wrong = impatient.ask("warm", "/f", "--timeout", "soon")
    assert wrong.code == 2 and "--timeout: 'soon' is no duration" in wrong.err
    slowfs.release(away)
    eventually(lambda: impatient.json("warm", "--status", job)["state"] == "done")
    assert impatient.json("warm", "--status", job)["waiting"] == ""


def test_warm_shows_how_far_it_is_and_ctrl_c_ends_it(slow: Site) -> None:
    slow.put("f", size=8 << 20)
    with Terminal("warm", "/f", "--yes", "--admin", slow.admin) as warm:
        shown = warm.until(" left")
        shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
        assert re.search(r"warm \S+ +\d+% 0 of 1 file  .*/s  .* left", shown), shown
        warm.write("\x03")
        assert warm.end() == 130
        assert "ended by Ctrl-C" in warm.seen and "0 of 1 file in the cache" in warm.seen
        assert "Traceback" not in warm.seen
    (job,) = slow.json("warm", "--list")["jobs"]
    assert job["state"] == "cancelled"


def test_who_purges_much_is_asked_on_a_terminal(site: Site) -> None:
    names = [f"many/{number:03}" for number in range(101)]
    site.put(*names, size=10)
    assert site.ask("warm", "/many/", "--at-once", "16").code == 0
    with Terminal("purge", "/many/", "--admin", site.admin) as purge:
        purge.until("Purge 101 files (")
        purge.write("n\n")
        assert purge.end() == 1
        assert "nothing was purged" in purge.seen
    assert site.json("ls", "/many/")["count"] == 101
    with Terminal("purge", "/many/", "--admin", site.admin) as purge:
        purge.until("[y/N]")
        purge.write("y\n")
        assert purge.end() == 0
    assert site.json("ls", "/many/")["count"] == 0


def test_pages_are_walked_to_the_end(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"pages/{number}" for number in range(7)]
    site.put(*names, size=10)
    assert site.ask("warm", "/pages/").code == 0
    shown: list[str] = []
    monkeypatch.setattr(ls, "_PAGE", 3)
    monkeypatch.setattr(ls, "say", shown.append)
    arguments = argparse.Namespace(
        targets="/pages/", exact=False, limit=0, sort="path", reverse=False, json=False
    )
    arguments.all_sources = False
    arguments.admin = site.admin
    assert ls.run(arguments) == 0
    (table,) = shown
    assert [line.split()[-1] for line in table.splitlines()[1:]] == [f"/{name}" for name in names]


def test_a_reader_that_has_enough_is_no_error(site: Site) -> None:
    read, write_end = os.pipe()
    os.close(read)
    done = subprocess.run(
        command("status", "--admin", site.admin),
        stdout=write_end,
        stderr=subprocess.PIPE,
        env=environment(),
        check=False,
    )
    os.close(write_end)
    assert (done.returncode, done.stderr) == (141, b"")
