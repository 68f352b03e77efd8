"""What must be true before the daemon starts, and the one line about what is not."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from streamcache.daemon import checks
from streamcache.daemon.paths import resolve
from streamcache.errors import ConfigError
from streamcache.settings import Settings, load
from streamcache.source.mounts import Mount
from tests.requirements import missing

Make = Callable[..., Settings]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Settings with a source and a cache directory; further ones as "section.key"."""
    (tmp_path / "films").mkdir()

    def settings(**flags: str | Path) -> Settings:
        wanted = {
            "source.path": os.fspath(tmp_path / "films"),
            "cache.dir": os.fspath(tmp_path / "cache"),
            **{name.replace("__", "."): os.fspath(value) for name, value in flags.items()},
        }
        return resolve(load(environ={}, flags=wanted))

    return settings


def refused(check: Callable[[Settings], object], settings: Settings) -> str:
    with pytest.raises(ConfigError) as caught:
        check(settings)
    text = str(caught.value)
    assert "\n" not in text
    assert "allowed: " in text
    return text


def test_what_is_right_passes_and_nothing_is_made(make: Make, tmp_path: Path) -> None:
    checks.check(make())
    checks.check_address(make(server__listen="127.0.0.1:0"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["films"]


def test_a_source_must_be_a_directory(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = refused(checks.check_source, make(source__path=tmp_path / "file"))
    assert f"SOURCE: source.path: {tmp_path / 'file'} is not a directory" in line
    line = refused(checks.check_source, make(source__path=tmp_path / "none"))
    assert f"{tmp_path / 'none'} does not exist" in line
    line = refused(checks.check_source, make(source__path=""))
    assert "no SOURCE given" in line


def test_a_source_may_be_a_link_to_a_directory(make: Make, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("films")
    settings = make(source__path=tmp_path / "link")
    checks.check_source(settings)
    assert settings.config.source.path == os.fspath(tmp_path / "link")


def test_a_source_that_cannot_be_read_is_named(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(os, "scandir", denied)  # root may read everything
    assert "cannot be read (Permission denied)" in refused(checks.check_source, make())


@pytest.mark.parametrize("name", ["films", "films/cache", "link/cache", "films/a/../b"])
def test_a_cache_inside_the_source_is_refused_by_whatever_name(
    make: Make, tmp_path: Path, name: str
) -> None:
    (tmp_path / "link").symlink_to("films")
    line = refused(checks.check_apart, make(cache__dir=tmp_path / name))
    assert (
        f"--cache-dir: cache.dir: {os.path.abspath(tmp_path / name)} is inside the source" in line
    )


def test_a_source_inside_the_cache_is_refused(make: Make, tmp_path: Path) -> None:
    line = refused(checks.check_apart, make(cache__dir=tmp_path))
    assert f"the source {tmp_path / 'films'} is inside the cache directory {tmp_path}" in line


def test_a_cache_beside_the_source_with_a_longer_name_is_fine(make: Make, tmp_path: Path) -> None:
    checks.check_apart(make(cache__dir=tmp_path / "films2"))


def test_a_cache_must_be_a_directory_or_be_possible(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("file", "file/cache"):
        line = refused(checks.check_cache_dir, make(cache__dir=tmp_path / name))
        assert f"{tmp_path / 'file'} is not a directory; allowed: a writable directory" in line
    checks.check_cache_dir(make(cache__dir=tmp_path / "some" / "way" / "down"))


def test_a_cache_that_cannot_be_written_is_refused(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    line = refused(checks.check_cache_dir, make(cache__dir=tmp_path))
    assert f"{tmp_path} is not writable" in line
    line = refused(checks.check_cache_dir, make(cache__dir=tmp_path / "a" / "b"))
    assert f"{tmp_path / 'a' / 'b'} cannot be made: {tmp_path} is not writable" in line


def test_a_directory_with_foreign_content_is_no_cache_and_is_not_touched(
    make: Make, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    (home / "docs").mkdir(parents=True)
    home.chmod(0o755)
    before = home.stat()
    settings = make(cache__dir=home)
    for check in (checks.check_cache_dir, checks.check):
        line = refused(check, settings)
        assert line.startswith(f"--cache-dir: cache.dir: cache directory '{home}' is not empty and")
        assert line.endswith("(it has 'docs'); allowed: a new or an empty directory")
    assert (home.stat().st_mode, home.stat().st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    assert os.listdir(home) == ["docs"]
    (home / "docs").rmdir()
    checks.check_cache_dir(settings)
    assert home.stat().st_mode == before.st_mode and os.listdir(home) == []


def test_a_cache_that_the_kernel_or_a_name_does_not_allow_is_told_so(
    make: Make, tmp_path: Path
) -> None:
    line = refused(checks.check_cache_dir, make(cache__dir="/proc/x"))
    assert "cache.dir: /proc/x cannot be made: /proc is the kernel's (proc), and no disk" in line
    line = refused(checks.check_cache_dir, make(cache__dir=tmp_path / ("x" * 300)))
    assert "cannot be made: File name too long" in line


def test_a_size_that_no_disk_there_has_is_warned_of(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = os.statvfs(tmp_path)
    most = disk.f_blocks * disk.f_frsize
    checks.check_cache_dir(make(cache__size=str(most)))
    assert not caplog.records
    checks.check_cache_dir(make(cache__size=str(most + 1)))
    (record,) = caplog.records
    assert f"--cache-size: cache.size: {most + 1} is more than the file system of" in record.message


def test_root_is_told_whose_the_cache_is(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if os.geteuid() != 0:
        missing("root, to give a directory away")
    (tmp_path / "cache").mkdir(0o700)
    checks.warn_of_owner(make())
    assert not caplog.records
    os.chown(tmp_path / "cache", 12345, -1)
    checks.warn_of_owner(make())
    assert "cache belongs to 12345: only a server that runs as that user can use it" in caplog.text


def test_digests_need_their_package(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make(cache__checksum="xxh3")
    checks.check(settings)
    monkeypatch.setitem(sys.modules, "xxhash", None)
    line = refused(checks.check, settings)
    assert 'cache.checksum: "xxh3" needs the package xxhash; install it: ' in line
    assert line.endswith('; allowed: "off" without it')
    checks.check(make())


def test_a_cache_on_a_network_file_system_is_refused_with_its_type(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = Mount("/mnt/nas", "nfs4", "nas:/export", "/")
    asked: list[str] = []
    monkeypatch.setattr(checks, "mount_of", lambda path: asked.append(path) or mount)
    line = refused(checks.check_cache_dir, make())
    assert "is on a network file system (nfs4 at /mnt/nas); allowed: a directory on a local" in line
    assert asked == [os.path.realpath(tmp_path / "cache")]


@pytest.mark.parametrize(
    ("type_", "network"),
    [
        ("ext4", False),
        ("xfs", False),
        ("overlay", False),
        ("tmpfs", False),
        ("fuseblk", False),
        ("fuse.mergerfs", False),
        ("fuse", False),
        ("nfs", True),
        ("nfs4", True),
        ("cifs", True),
        ("smb3", True),
        ("9p", True),
        ("fuse.sshfs", True),
        ("fuse.rclone", True),
        ("fuse.s3fs", True),
        ("ceph", True),
    ],
)
def test_a_network_file_system_is_told_by_its_type(type_: str, network: bool) -> None:
    assert checks.is_network(type_) is network


def test_a_cache_on_sshfs_is_refused(make: Make, sshfs) -> None:
    line = refused(checks.check_cache_dir, make(cache__dir=sshfs.path / "cache"))
    assert "network file system (fuse.sshfs at " in line


@pytest.mark.parametrize(
    "listen",
    [
        "",
        "8080",
        "127.0.0.1",
        "127.0.0.1:port",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "::1:80",
        ":8080",
        "[::1]",
        "unix:",
    ],
)
def test_what_is_no_address_is_refused_with_what_is_allowed(make: Make, listen: str) -> None:
    line = refused(checks.parse_address, make(server__listen=listen))
    assert f"--listen: server.listen: {listen!r}" in line
    assert "HOST:PORT (port 0 to 65535), [IPv6]:PORT or unix:PATH" in line


def test_a_port_in_use_is_said_and_may_be_that_of_the_server_that_runs(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        checks.check_address(make(server__listen=listen))
    assert f"--listen: server.listen: {listen} is in use, by a server" in caplog.text


def test_an_address_of_another_machine_is_named(make: Make) -> None:
    line = refused(checks.check_address, make(server__listen="192.0.2.1:8080"))
    assert "cannot listen on 192.0.2.1:8080: cannot assign requested address" in line


def test_a_port_that_needs_a_right_is_told_so(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "first").write_text("1000\n")
    monkeypatch.setattr(checks, "_PORTS_OF_ROOT", str(tmp_path / "first"))
    error = PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def line(listen: str, error: OSError = error) -> str:
        return str(checks.cannot_listen(make(server__listen=listen), error))

    told = "permission denied, as ports below 1000 need root or the right CAP_NET_BIND_SERVICE;"
    assert told in line("127.0.0.1:999")
    assert "a port from 1000 on that is free" in line("127.0.0.1:999")
    others = [line("127.0.0.1:1000"), line("127.0.0.1:0"), line(f"unix:{tmp_path}/s")]
    others.append(line("127.0.0.1:80", OSError(errno.EADDRINUSE, "in use")))
    assert not [text for text in others if "CAP_NET" in text]
    (tmp_path / "first").unlink()
    assert "ports below 1024 need" in line("127.0.0.1:1023")


def test_a_unix_socket_is_checked_and_not_left_behind(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "its.sock"
    checks.check_address(make(server__listen=f"unix:{path}"))
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(os.fspath(path))
        other.listen()
        checks.check_address(make(server__listen=f"unix:{path}"))
    assert path.exists()
    assert f"unix:{path} is in use" in caplog.text


def test_a_file_is_no_address(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("kept")
    line = refused(checks.check_address, make(server__listen=f"unix:{path}"))
    assert "already in use" in line
    assert path.read_text() == "kept"


def test_a_pid_file_that_cannot_be_written_is_named(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    checks.check_pid_file(make())
    checks.check_pid_file(make(server__pid_file=path))
    assert not path.exists()
    path.write_text("4711\n")  # a server that runs, say
    checks.check_pid_file(make(server__pid_file=path))
    line = refused(checks.check_pid_file, make(server__pid_file=tmp_path / "none" / "pid"))
    assert f"server.pid_file: {tmp_path}/none/pid cannot be written: {tmp_path}/none" in line


def test_an_access_log_that_cannot_be_written_is_refused(make: Make, tmp_path: Path) -> None:
    def settings(path: Path) -> Settings:
        return resolve(load(environ={"STREAMCACHE_LOG_ACCESS": os.fspath(path)}))

    line = refused(checks.check_access_log, settings(tmp_path / "none" / "access.log"))
    assert f"$STREAMCACHE_LOG_ACCESS: log.access: {tmp_path / 'none' / 'access.log'} cannot" in line
    assert "is a directory" in refused(checks.check_access_log, settings(tmp_path))
    checks.check_access_log(settings(tmp_path / "access.log"))
    assert not (tmp_path / "access.log").exists()
    (tmp_path / "access.log").write_text("kept\n")
    checks.check_access_log(settings(tmp_path / "access.log"))
    assert (tmp_path / "access.log").read_text() == "kept\n"
    os.mkfifo(tmp_path / "fifo")
    checks.check_access_log(settings(tmp_path / "fifo"))  # its reader may come later
