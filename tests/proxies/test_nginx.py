"""nginx in front, with etc/examples/nginx.conf."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.bench.peers import Program
from tests.clients.conftest import run
from tests.content import content, write
from tests.daemon_process import DaemonProcess
from tests.proxies.conftest import CLIENT, Start, example
from tests.requirements import program
from tests.slowfs import SlowFS
from tests.system.site import eventually

SIZE = 8 * 1024 * 1024 + 123


class Nginx(Program):
    def __init__(self, upstream: tuple[str, int], directory: Path) -> None:
        super().__init__("nginx", directory)
        self._upstream = upstream

    def command(self, port: int) -> Sequence[str]:
        host, behind = self._upstream
        site = example(
            "nginx.conf",
            {"server 127.0.0.1:8080;": f"server {host}:{behind};", "listen 80;": f"listen {port};"},
        )
        paths = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "\n".join(f"{name}_temp_path {self.directory};" for name in paths)
        conf = self.directory / "nginx.conf"
        conf.write_text(
            f"daemon off; master_process off; pid {self.directory}/pid;\n"
            f"events {{}}\nhttp {{ access_log off;\n{temporary}\n{site}\n}}\n"
        )
        log = str(self.directory / "error.log")
        return (program("nginx"), "-p", str(self.directory), "-e", log, "-c", str(conf))


@pytest.fixture
def behind(slowfs: SlowFS, node: Start) -> DaemonProcess:
    write(slowfs.backing, "film.mp4", SIZE)
    return node(slowfs.path)


@pytest.fixture
def nginx(behind: DaemonProcess, tmp_path: Path) -> Iterator[str]:
    with Nginx(behind.address, tmp_path / "nginx") as proxy:
        yield f"http://127.0.0.1:{proxy.address[1]}"


def test_a_cold_film_and_a_seek_into_it(
    nginx: str, behind: DaemonProcess, slowfs: SlowFS, curl: tuple[str, ...]
) -> None:
    seek = run(*curl, "--range", f"{SIZE - 1000}-", f"{nginx}/film.mp4")
    assert seek == content("film.mp4", SIZE - 1000, SIZE)
    assert run(*curl, f"{nginx}/film.mp4") == content("film.mp4", 0, SIZE)
    assert slowfs.repeated("film.mp4") == 0
    # The client, not the proxy.
    eventually(lambda: behind.log.count('"GET /film.mp4 ') == 2)
    assert behind.log.count(f"\n{CLIENT} - - [") == 2


def test_what_streamcache_says_of_a_file_arrives(nginx: str, curl: tuple[str, ...]) -> None:
    head = run(*curl, "--head", f"{nginx}/film.mp4").decode()
    fields = dict(line.lower().split(": ", 1) for line in head.splitlines() if ": " in line)
    assert fields["content-length"] == str(SIZE)
    assert fields["accept-ranges"] == "bytes"
    assert fields["cache-status"].startswith("streamcache; ")
    tag = fields["etag"]
    again = run(*curl, "--header", f"If-None-Match: {tag}", "--head", f"{nginx}/film.mp4").decode()
    assert again.startswith("HTTP/1.1 304 ")


def test_a_viewer_who_leaves_is_gone_behind_the_proxy_too(
    nginx: str, behind: DaemonProcess, slowfs: SlowFS
) -> None:
    write(slowfs.backing, "long.mp4", 64 * 1024 * 1024)
    port = int(nginx.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as viewer:
        viewer.sendall(b"GET /long.mp4 HTTP/1.1\r\nHost: films.example\r\n\r\n")
        assert viewer.recv(1024).startswith(b"HTTP/1.1 200 ")
    eventually(lambda: '"GET /long.mp4 ' in behind.log)
    (line,) = [line for line in behind.log.splitlines() if '"GET /long.mp4 ' in line]
    assert ' "-" cut ' in line
