"""HAProxy over three nodes, with etc/examples/haproxy.cfg: each film has its node."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.bench.peers import Program, free_port
from tests.clients.conftest import run
from tests.content import content, write
from tests.daemon_process import DaemonProcess
from tests.proxies.conftest import CLIENT, Start, example
from tests.requirements import program
from tests.system.site import eventually

FILMS = [f"film{number}.mp4" for number in range(30)]
SIZE = 10_000


class HAProxy(Program):
    def __init__(self, nodes: dict[str, tuple[DaemonProcess, int]], directory: Path) -> None:
        super().__init__("haproxy", directory)
        self._nodes = nodes

    def command(self, port: int) -> Sequence[str]:
        changes = {"bind :80": f"bind 127.0.0.1:{port}"}
        for number, (name, (node, admin)) in enumerate(self._nodes.items(), start=1):
            host, behind = node.address
            changes[f"server {name} 192.0.2.{number}:8080 check port 9080"] = (
                f"server {name} {host}:{behind} check port {admin}"
            )
        conf = self.directory / "haproxy.cfg"
        conf.write_text(example("haproxy.cfg", changes))
        return (program("haproxy"), "-db", "-f", str(conf))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "films"
    directory.mkdir()
    for name in FILMS:
        write(directory, name, SIZE)
    return directory


@pytest.fixture
def nodes(source: Path, node: Start) -> dict[str, tuple[DaemonProcess, int]]:
    """The daemons and the ports of their admin listeners."""
    found = {}
    for name in "abc":
        admin = free_port()
        found[name] = (node(source, "--admin", f"127.0.0.1:{admin}"), admin)
    return found


@pytest.fixture
def haproxy(nodes: dict[str, tuple[DaemonProcess, int]], tmp_path: Path) -> Iterator[str]:
    with HAProxy(nodes, tmp_path / "haproxy") as proxy:
        yield f"http://127.0.0.1:{proxy.address[1]}"


def who_has(nodes: dict[str, tuple[DaemonProcess, int]]) -> dict[str, set[str]]:
    """The films that each node was asked for, by its log; no film twice since the last look."""
    return {
        name: {
            film for film in FILMS if f'"GET /{film} ' in node.log or f"GET /{film}?" in node.log
        }
        for name, (node, _) in nodes.items()
    }


def test_each_film_has_one_node_and_a_dead_node_s_films_alone_move(
    haproxy: str, nodes: dict[str, tuple[DaemonProcess, int]], curl: tuple[str, ...]
) -> None:
    def ask(film: str, more: str = "") -> bytes:
        return run(*curl, f"{haproxy}/{film}{more}")

    for film in FILMS:
        assert ask(film) == content(film, 0, SIZE)
    eventually(lambda: sum(map(len, who_has(nodes).values())) == len(FILMS))
    first = who_has(nodes)
    assert all(len(films) >= 3 for films in first.values()), "each node has its share"
    for name, (node, _) in nodes.items():
        assert node.log.count(f"\n{CLIENT} - - [") == len(first[name]), "the client, not the proxy"

    # The same film again, also with a grant in its query, is a hit of the same node.
    for film in FILMS:
        assert ask(film, "?grant=f.1.k1.x") == content(film, 0, SIZE)
    assert who_has(nodes) == first

    died, _ = nodes["b"]
    died.kill()
    for film in FILMS:
        assert ask(film) == content(film, 0, SIZE), "nobody notices"
    left = {name: nodes[name] for name in "ac"}
    eventually(lambda: sum(map(len, who_has(left).values())) == len(FILMS))
    after = who_has(left)
    for name in "ac":
        assert first[name] <= after[name]
        assert after[name] - first[name] <= first["b"], "only the films of the dead node moved"


def test_a_node_that_drains_is_left_before_it_closes(
    haproxy: str, nodes: dict[str, tuple[DaemonProcess, int]], curl: tuple[str, ...]
) -> None:
    for film in FILMS:
        assert run(*curl, f"{haproxy}/{film}") == content(film, 0, SIZE)
    assert nodes["c"][0].stop() == 0
    for film in FILMS:
        assert run(*curl, f"{haproxy}/{film}") == content(film, 0, SIZE)
