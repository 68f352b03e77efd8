"""Caddy in front, with etc/examples/Caddyfile; its own authority signs for localhost."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.bench.peers import Program, free_port
from tests.clients.conftest import run
from tests.content import content, write
from tests.daemon_process import DaemonProcess
from tests.proxies.conftest import CLIENT, Start, example
from tests.requirements import program
from tests.slowfs import SlowFS
from tests.system.site import eventually

SIZE = 8 * 1024 * 1024 + 123


class Caddy(Program):
    def __init__(self, behind: DaemonProcess, directory: Path) -> None:
        super().__init__("caddy", directory)
        self.behind = behind

    @property
    def certificate(self) -> Path:
        """Its own, which it makes after it began to accept."""
        return self.directory / "caddy" / "certificates" / "local" / "localhost" / "localhost.crt"

    @property
    def authority(self) -> Path:
        """The certificate that signs its own."""
        return self.directory / "caddy" / "pki" / "authorities" / "local" / "root.crt"

    def environment(self) -> Mapping[str, str]:
        home = str(self.directory)
        return {**os.environ, "XDG_DATA_HOME": home, "XDG_CONFIG_HOME": home, "HOME": home}

    def command(self, port: int) -> Sequence[str]:
        host, behind = self.behind.address
        site = example(
            "Caddyfile",
            {"films.example {": f"localhost:{port} {{", "127.0.0.1:8080 {": f"{host}:{behind} {{"},
        )
        file = self.directory / "Caddyfile"
        file.write_text(
            f"{{\n\tadmin off\n\tskip_install_trust\n\thttp_port {free_port()}\n}}\n{site}"
        )
        return (program("caddy"), "run", "--config", str(file), "--adapter", "caddyfile")


@pytest.fixture
def caddy(slowfs: SlowFS, node: Start, tmp_path: Path) -> Iterator[Caddy]:
    write(slowfs.backing, "film.mp4", SIZE)
    with Caddy(node(slowfs.path), tmp_path / "caddy") as proxy:
        yield proxy


def test_https_and_http_2_over_a_cold_film(
    caddy: Caddy, slowfs: SlowFS, curl: tuple[str, ...]
) -> None:
    eventually(caddy.certificate.exists)
    trusting = (*curl, "--cacert", str(caddy.authority))
    url = f"https://localhost:{caddy.address[1]}/film.mp4"
    version = ("--output", "/dev/null", "--write-out", "%{http_version} %{http_code}")
    assert run(*trusting, *version, "--range", "0-0", url) == b"2 206"
    seek = run(*trusting, "--range", f"{SIZE - 1000}-", url)
    assert seek == content("film.mp4", SIZE - 1000, SIZE)
    assert run(*trusting, url) == content("film.mp4", 0, SIZE)
    assert slowfs.repeated("film.mp4") == 0
    eventually(lambda: caddy.behind.log.count(f"\n{CLIENT} - - [") == 3)
