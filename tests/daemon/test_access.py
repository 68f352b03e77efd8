"""Who is let in by the real daemon: allow and deny, passwords, signed URLs, all from a file."""

from __future__ import annotations

import http.client
import importlib.util
import os
import re
import socket
import subprocess
import sys
import time
from base64 import b64encode
from pathlib import Path

import pytest

from tests.daemon_process import REPOSITORY, DaemonProcess
from tests.requirements import missing

FILM = b"film" * 5000

pytestmark = pytest.mark.usefixtures("no_settings")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "films"
    (path / "hls").mkdir(parents=True)
    (path / "a b.mp4").write_bytes(FILM)
    (path / "hls" / "main.m3u8").write_bytes(b"#EXTM3U\n#EXTINF:4,\n1.ts\n#EXTINF:4,\n2.ts\n")
    for name in ("1.ts", "2.ts"):
        (path / "hls" / name).write_bytes(name.encode() * 1000)
    for each in path.rglob("*"):
        os.utime(each, (1_700_000_000, 1_700_000_000))  # settled: cached at once
    return path


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("k2 " + "0f" * 32 + "\nk1 " + "a5" * 32 + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def users(tmp_path: Path) -> Path:
    if importlib.util.find_spec("bcrypt") is None:
        missing("the extra auth is not installed (pip install bcrypt)")
    import bcrypt

    path = tmp_path / "users"
    path.write_bytes(b"anna:" + bcrypt.hashpw(b"right", bcrypt.gensalt(6)) + b"\n")
    path.chmod(0o600)
    return path


def configured(tmp_path: Path, **access: object) -> tuple[str, str]:
    lines = [
        f"{key} = {str(value).lower() if isinstance(value, bool) else repr(str(value))}"
        for key, value in access.items()
    ]
    (tmp_path / "its.toml").write_text("\n".join(["[access]", *lines, ""]))
    return "--config", os.fspath(tmp_path / "its.toml")


def get(daemon: DaemonProcess, path: str, *, method: str = "GET", **fields: str):
    connection = http.client.HTTPConnection(*daemon.address, timeout=30)
    try:
        connection.request(method, path, headers=fields)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "streamcache", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=30,
    )


def signed(keys: Path, target: str, expires: str, *flags: str) -> str:
    done = command("sign", target, "--key-file", os.fspath(keys), "--expires", expires, *flags)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.rstrip("\n")


def basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


def refusal(source: Path, *flags: str, check: bool, **environment: str) -> str:
    also = ["--check"] if check else []
    done = command("serve", os.fspath(source), *also, *flags, **environment)
    lines = [line for line in done.stderr.splitlines() if line.startswith("streamcache: error: ")]
    assert (done.returncode, done.stdout, len(lines)) == (2, "", 1), done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


@pytest.mark.parametrize(("rules", "status"), [("allow 127.0.0.1", 200), ("deny 127.0.0.1", 403)])
def test_networks(source: Path, tmp_path: Path, rules: str, status: int) -> None:
    with DaemonProcess(source, *configured(tmp_path, networks=rules)) as daemon:
        for _ in range(3):
            said, fields, body = get(daemon, "/a%20b.mp4")
            assert (said, body) == (status, FILM if status == 200 else b"403 Forbidden\n")
        assert fields["Cache-Status"].startswith("streamcache")


def test_the_client_behind_a_proxy(source: Path, tmp_path: Path) -> None:
    rules = {"networks": "allow 192.0.2.0/24", "trusted_proxies": "127.0.0.1"}
    with DaemonProcess(source, *configured(tmp_path, **rules)) as daemon:
        behind = {"X-Forwarded-For": "10.1.1.1, 192.0.2.9"}
        assert get(daemon, "/a%20b.mp4", **behind)[0] == 200
        assert get(daemon, "/a%20b.mp4")[0] == 403
        daemon.stop()
        clients = re.findall(r'^(\S+) - - \[.*\] "GET', daemon.log, re.MULTILINE)
        assert clients == ["192.0.2.9", "127.0.0.1"]


def test_a_proxy_header(source: Path, tmp_path: Path) -> None:
    rules = {"proxy_protocol": True, "trusted_proxies": "127.0.0.1", "networks": "allow 192.0.2.9"}
    with DaemonProcess(source, *configured(tmp_path, **rules)) as daemon:
        for client, status in (("192.0.2.9", b"200"), ("192.0.2.8", b"403")):
            with socket.create_connection(daemon.address, 30) as connection:
                line = f"PROXY TCP4 {client} 127.0.0.1 1 2\r\n".encode()
                connection.sendall(line + b"GET /a%20b.mp4 HTTP/1.1\r\nHost: h\r\n\r\n")
                assert connection.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 " + status


@pytest.mark.parametrize("workers", [1, 2])
def test_passwords(source: Path, tmp_path: Path, users: Path, workers: int) -> None:
    flags = configured(tmp_path, htpasswd=users, realm="films")
    with DaemonProcess(source, *flags, workers=workers) as daemon:
        said, fields, _ = get(daemon, "/a%20b.mp4")
        assert (said, fields["WWW-Authenticate"].split(",")[0]) == (401, 'Basic realm="films"')
        for user, password in (("anna", "wrong"), ("nobody", "right"), ("anna", "")):
            assert get(daemon, "/a%20b.mp4", Authorization=basic(user, password))[0] == 401
        for _ in range(3):
            right = basic("anna", "right")
            assert get(daemon, "/a%20b.mp4", Authorization=right)[::2] == (200, FILM)
            assert get(daemon, "/a%20b.mp4", method="HEAD", Authorization=right)[0] == 200
        assert get(daemon, "/a%20b.mp4")[0] == 401
        daemon.stop()
        assert len(re.findall(r"127\.0\.0\.1 - anna \[", daemon.log)) == 6
        assert right.split()[1] not in daemon.log


def test_signed_urls(source: Path, tmp_path: Path, keys: Path) -> None:
    with DaemonProcess(source, *configured(tmp_path, keys=keys)) as daemon:
        url = signed(keys, daemon.url + "a%20b.mp4", "1h")
        assert url.startswith(daemon.url)
        path = "/" + url.removeprefix(daemon.url)
        for _ in range(3):
            assert get(daemon, path)[::2] == (200, FILM)
        assert get(daemon, path, Range="bytes=0-3")[::2] == (206, b"film")
        assert get(daemon, signed(keys, "/a b.mp4", "1h"))[0] == 200
        grant = path.partition("?")[2]
        for refused in (
            "/a%20b.mp4",
            path[:-1],
            path.replace("a%20b", "other"),
            path + "&" + grant,
        ):
            assert get(daemon, refused)[0] == 403
        daemon.stop()
        assert path.rpartition(".")[2] not in daemon.log


def test_a_signed_url_expires(source: Path, tmp_path: Path, keys: Path) -> None:
    with DaemonProcess(source, *configured(tmp_path, keys=keys)) as daemon:
        path = signed(keys, "/a b.mp4", "3s")
        expires = int(path.split("grant=f.")[1].split(".")[0])
        statuses = set()
        while time.time() < expires + 0.05:
            before = time.time()
            status = get(daemon, path)[0]
            if time.time() < expires:
                assert status == 200
            elif before >= expires:
                assert status == 403
            statuses.add(status)
            time.sleep(0.02)
        assert get(daemon, path)[0] == 403
        assert 200 in statuses


def test_a_player_follows_a_signed_playlist(source: Path, tmp_path: Path, keys: Path) -> None:
    """As a player does it: names in the playlist are resolved against its URL."""
    from urllib.parse import urljoin

    with DaemonProcess(source, *configured(tmp_path, keys=keys)) as daemon:
        url = signed(keys, daemon.url + "hls/main.m3u8", "1h", "--prefix")
        status, _, playlist = get(daemon, "/" + url.removeprefix(daemon.url))
        assert status == 200
        names = [line for line in playlist.decode().splitlines() if not line.startswith("#")]
        for name in names:
            segment = "/" + urljoin(url, name).removeprefix(daemon.url)
            assert get(daemon, segment)[::2] == (200, name.encode() * 1000)
        outside = "/" + urljoin(url, "../a%20b.mp4").removeprefix(daemon.url)
        assert get(daemon, outside)[0] == 403


@pytest.mark.parametrize("check", [False, True])
def test_what_cannot_be_used_is_one_line(source: Path, tmp_path: Path, check: bool) -> None:
    def said(**access: object) -> str:
        flags = configured(tmp_path, **access)
        return refusal(source, *flags, "--cache-dir", f"{tmp_path}/c", check=check).removeprefix(
            f"streamcache: error: {tmp_path}/its.toml: access."
        )

    assert said(networks="alow all").startswith("networks: 'alow all' is no rule; allowed: ")
    assert said(networks="allow 10.0.0.1/8").startswith("networks: 'allow 10.0.0.1/8': ")
    assert said(trusted_proxies="proxy").startswith("trusted_proxies: 'proxy' is no network; al")
    assert said(proxy_protocol=True).startswith("proxy_protocol: nobody could connect; name who ")
    assert said(realm='a"b').startswith("realm: 'a\"b' is no realm; allowed: printable ASCII")
    missing_file = f"{tmp_path}/none"
    assert said(keys=missing_file).startswith(f"keys: {missing_file} cannot be read: no such file")
    assert said(htpasswd=missing_file).startswith(f"htpasswd: {missing_file} cannot be read: ")
    (tmp_path / "plain").write_text("anna:secret\n")
    assert said(htpasswd=f"{tmp_path}/plain").startswith("htpasswd: line 1: not a bcrypt hash")


def test_passwords_without_the_library(source: Path, tmp_path: Path) -> None:
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "bcrypt.py").write_text("raise ImportError('hidden')\n")
    (tmp_path / "users").write_text("anna:$2b$04$" + "a" * 21 + "u" + "a" * 31 + "\n")
    flags = configured(tmp_path, htpasswd=tmp_path / "users")
    line = refusal(source, *flags, check=True, PYTHONPATH=os.fspath(tmp_path / "shadow"))
    assert "its.toml: access.htpasswd: passwords need the bcrypt library" in line
    assert line.rstrip().endswith(f"{sys.executable} -m pip install bcrypt")


def test_a_file_that_everybody_can_read_is_told(source: Path, tmp_path: Path, keys: Path) -> None:
    keys.chmod(0o644)
    with DaemonProcess(source, *configured(tmp_path, keys=keys)) as daemon:
        assert f"{keys} can be read by every user" in daemon.log
    keys.chmod(0o646)
    command = [sys.executable, "-m", "streamcache", "check", os.fspath(source)]
    command += ["--listen", "127.0.0.1:0", *configured(tmp_path, keys=keys)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = f"streamcache: warning: {keys} can be read and written by every user of this machine\n"
    assert done.stderr == said


def test_sign_says_what_is_wrong(keys: Path) -> None:
    done = command("sign", "/a.mp4", "--key-file", "/no/file", "--expires", "1h")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("streamcache: error: ")
    done = command("sign", "/a.mp4", "--expires", "1h")
    assert "required: --key-file (see streamcache sign --help)" in done.stderr
    assert "--prefix" in command("sign", "--help").stdout
