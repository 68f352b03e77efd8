"""What etc/ has for an installation: each file as the program that reads it sees it."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from streamcache.config import default_of
from streamcache.daemon.supervisor import DRAIN_GRACE
from streamcache.units import parse_duration
from tests.daemon.manager import Manager
from tests.daemon.readable_python import readable_python
from tests.daemon.running import PATIENCE, Running
from tests.daemon.sandbox import directives
from tests.daemon_process import DaemonProcess, children
from tests.requirements import missing, program

REPOSITORY = Path(__file__).resolve().parents[2]
ETC = REPOSITORY / "etc"
UNIT = ETC / "streamcache.service"
MOST_EXPOSED = 1.5  # of 10, as systemd-analyze security counts

Daemon = Callable[..., DaemonProcess]


def seconds(text: str) -> float:
    """A time as systemd writes it."""
    return parse_duration(text.removesuffix("in"))


def test_systemd_understands_the_units(tmp_path: Path) -> None:
    analyze = program("systemd-analyze")
    text = UNIT.read_text().replace("/usr/bin/streamcache", f"{REPOSITORY}/bin/streamcache")
    (tmp_path / UNIT.name).write_text(text)
    (tmp_path / "streamcache.socket").write_text((ETC / "streamcache.socket").read_text())
    done = subprocess.run(
        [analyze, "verify", tmp_path / UNIT.name, tmp_path / "streamcache.socket"],
        capture_output=True,
        text=True,
    )
    # Before systemd 253 there is no such type, and the line before it holds.
    said = [
        line
        for line in (done.stdout + done.stderr).splitlines()
        if "ignoring: notify-reload" not in line
    ]
    assert (done.returncode, said) == (0, [])


def test_the_service_is_little_exposed() -> None:
    analyze = program("systemd-analyze")
    command = [analyze, "security", "--offline=true", "--no-pager", UNIT]
    done = subprocess.run(command, capture_output=True, text=True)
    found = re.search(r"exposure level for streamcache.service: ([\d.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= MOST_EXPOSED


def test_times_of_the_unit_are_longer_than_ours() -> None:
    said = directives(os.fspath(UNIT))
    assert seconds(said["TimeoutStopSec"][0]) > default_of("server", "drain_timeout") + DRAIN_GRACE
    assert seconds(said["WatchdogSec"][0]) > 2 * default_of("server", "worker_timeout")
    assert said["Type"] == ["notify", "notify-reload"]


def test_the_page_that_the_unit_points_to_is_where_the_install_steps_put_it(tmp_path: Path) -> None:
    found = re.search(r"^Documentation=file://(\S+)$", UNIT.read_text(), re.M)
    assert found is not None
    page = Path(found[1])
    steps = (REPOSITORY / "docs" / "operations.md").read_text().splitlines()
    (step,) = [line for line in steps if line.startswith("install ") and str(page.parent) in line]
    command = step.replace(str(page.parent), f"'{tmp_path}/doc'")
    subprocess.run(command, shell=True, cwd=REPOSITORY, check=True)
    assert (tmp_path / "doc" / page.name).read_text() == "\n".join([*steps, ""])


def test_the_daemon_does_all_its_work_in_the_sandbox_of_the_unit(
    cache_dir: Path, tmp_path: Path
) -> None:
    """Serve, copy, reload, open logs again, upgrade, drain: under the unit's own restrictions."""
    if os.geteuid() != 0:
        missing("only root can restrict a process like systemd")
    program("systemd-analyze")
    python, environment = readable_python()
    nobody = pwd.getpwnam("nobody")
    cache_dir.chmod(0o711)
    films, state = cache_dir / "films", cache_dir / "state"
    films.mkdir()
    (films / "a.mp4").write_bytes(b"film" * 50_000)
    os.utime(films / "a.mp4", (1, 1))
    for path in (state, state / "run", state / "log", state / "cache"):
        path.mkdir(mode=0o700)
        os.chown(path, nobody.pw_uid, nobody.pw_gid)
    with Manager(cache_dir) as manager:
        os.chmod(manager.name, 0o777)
        command = [python, "-m", "streamcache", "serve", os.fspath(films)]
        command += ["--listen", "127.0.0.1:0", "--workers", "2", "--cache-size", "1GB"]
        process = subprocess.Popen(
            [
                *(python, os.fspath(REPOSITORY / "tests" / "daemon" / "sandbox.py"), UNIT),
                *(str(nobody.pw_uid), str(nobody.pw_gid), os.fspath(state), "--", *command),
            ],
            cwd=REPOSITORY,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONDONTWRITEBYTECODE": "1",
                **environment,
                "RUNTIME_DIRECTORY": os.fspath(state / "run"),
                "CACHE_DIRECTORY": os.fspath(state / "cache"),
                "STREAMCACHE_LOG_ACCESS": os.fspath(state / "log" / "access.log"),
                **manager.environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        daemon = Running(process)
        try:
            line = daemon.ready_line()
            assert line, daemon.end()[2]
            port = int(line.split()[3].rstrip("/").rpartition(":")[2])
            assert get(port) == b"film" * 50_000
            assert len(children(process.pid)) == 2
            assert status(process.pid)["Seccomp"] == "2"
            daemon.signal(signal.SIGHUP)
            daemon.wait_for("reloaded changed=nothing")
            daemon.signal(signal.SIGUSR1)
            daemon.signal(signal.SIGUSR2)
            daemon.wait_for("upgrade: took over from pid=")
            first = manager.until("MAINPID")
            while (pid := int(manager.until("MAINPID")["MAINPID"])) == int(first["MAINPID"]):
                pass
            assert process.wait(PATIENCE) == 0
            assert get(port) == b"film" * 50_000
            os.kill(pid, signal.SIGTERM)
        except BaseException:
            with contextlib.suppress(OSError):
                process.kill()
            raise
        finally:
            log = daemon.end()[2]
    assert "stopped" in log
    assert [line for line in log.splitlines() if " WARNING " in line or " ERROR " in line] == []
    assert "a.mp4" in (state / "log" / "access.log").read_text()


def test_the_sandbox_of_these_tests_is_one(cache_dir: Path) -> None:
    if os.geteuid() != 0:
        missing("only root can restrict a process like systemd")
    program("systemd-analyze")
    python, _ = readable_python()
    nobody = pwd.getpwnam("nobody")
    os.chown(cache_dir, nobody.pw_uid, nobody.pw_gid)
    code = """
import mmap, os, resource, socket, sys
def denied(function, *arguments):
    try:
        function(*arguments)
    except OSError:
        return
    sys.exit(f"allowed: {function} {arguments}")
here = sys.argv[1]
open(here + "/mine", "w").close()
denied(open, "/var/tmp/not-mine", "w")
denied(os.chown, here + "/mine", -1, -1)
denied(os.setuid, 0)
denied(os.sched_setaffinity, 0, {0})
denied(socket.socket, socket.AF_NETLINK, socket.SOCK_RAW)
denied(os.mount if hasattr(os, "mount") else os.chroot, "/")
denied(mmap.mmap, -1, 4096, mmap.MAP_PRIVATE, mmap.PROT_WRITE | mmap.PROT_EXEC)
"""
    sandbox = os.fspath(REPOSITORY / "tests" / "daemon" / "sandbox.py")
    ids = (str(nobody.pw_uid), str(nobody.pw_gid))
    command = [python, sandbox, UNIT, *ids, cache_dir, "--", python, "-c", code, cache_dir]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def get(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        client.sendall(b"GET /a.mp4 HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    return answer.partition(b"\r\n\r\n")[2]


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_the_user_and_its_directories_are_made(tmp_path: Path) -> None:
    sysusers, tmpfiles = program("systemd-sysusers"), program("systemd-tmpfiles")
    if os.geteuid() != 0:
        missing("only root can make directories of other users")
    (tmp_path / "etc").mkdir()
    subprocess.run(
        [sysusers, f"--root={tmp_path}", "-"],
        input=(ETC / "streamcache.sysusers").read_text(),
        text=True,
        check=True,
    )
    entry = next(
        line
        for line in (tmp_path / "etc" / "passwd").read_text().splitlines()
        if line.startswith("streamcache:")
    ).split(":")
    with open(tmp_path / "etc" / "group", "a") as groups:
        groups.write("adm:x:4:\n")
    subprocess.run(
        [tmpfiles, "--create", f"--root={tmp_path}", "-"],
        input=(ETC / "streamcache.tmpfiles").read_text(),
        text=True,
        check=True,
    )
    for path, mode, ours in (
        ("var/cache/streamcache", 0o700, True),
        ("var/log/streamcache", 0o750, True),
        ("run/streamcache", 0o750, True),
        ("etc/streamcache", 0o755, False),
    ):
        found = (tmp_path / path).stat()
        assert found.st_mode & 0o7777 == mode, path
        assert (str(found.st_uid) == entry[2]) is ours, path
    assert entry[5] == "/var/cache/streamcache"


def test_logrotate_takes_no_line(daemon: Daemon, tmp_path: Path) -> None:
    rotate = program("logrotate")
    films, logs = tmp_path / "films", tmp_path / "log"
    films.mkdir()
    logs.mkdir()
    (films / "a.mp4").write_bytes(b"film")
    pid = tmp_path / "pid"
    server = daemon(
        *(films, "--pid-file", str(pid)),
        environment={"STREAMCACHE_LOG_ACCESS": os.fspath(logs / "access.log")},
    )
    port = server.address[1]
    user = pwd.getpwuid(os.geteuid()).pw_name
    text = (ETC / "streamcache.logrotate").read_text()
    for was, now in (
        ("/var/log/streamcache/", f"{logs}/"),
        ("su streamcache streamcache", f"su {user} {user}"),
        ("create 0640 streamcache streamcache", "create 0640"),
        (
            "systemctl kill --kill-who=main --signal=USR1 streamcache.service",
            f"kill -USR1 {server.pid}",
        ),
    ):
        assert was in text
        text = text.replace(was, now)
    config = tmp_path / "logrotate.conf"
    config.write_text(text)
    config.chmod(0o644)
    command = [rotate, "--force", "--state", tmp_path / "state", config]
    for count in range(3):
        get(port)
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), count
    get(port)
    assert server.stop() == 0
    lines = []
    for path in sorted(logs.iterdir()):
        read = ["zcat", path] if path.suffix == ".gz" else ["cat", path]
        lines += subprocess.run(read, capture_output=True, text=True).stdout.splitlines()
    assert sum("GET /a.mp4" in line for line in lines) == 4
