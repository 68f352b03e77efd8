"""A viewer believes nothing: a server that answers wrongly is found out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import gevent
import pytest
from gevent.server import StreamServer

from tests.content import content
from tests.server.client import Client
from tests.soak import viewer
from tests.soak.source import SMALL
from tests.soak.titles import Content, Titles
from tests.soak.viewer import Request, Seen, Wrong, _Patient

Answer = Callable[[Content, str], bytes]
OTHER = "Content-Range: bytes 1-1/2\r\n"


@pytest.fixture
def titles(tmp_path: Path) -> Titles:
    return Titles(tmp_path, SMALL, Random(5), count=6)


@pytest.fixture
def ask(titles: Titles) -> Iterator[Callable[[Answer], str]]:
    """``ask(answer)``: the outcome of one request for all of a file, so answered."""
    name = max(titles.names, key=lambda name: titles.current(name).size)
    version = titles._now[name]
    servers = []

    def run(answer: Answer) -> str:
        found = titles.version(version)
        assert found is not None
        reply = answer(found, version)

        def serve(peer, _address) -> None:
            peer.recv(65536)
            peer.sendall(reply)

        server = StreamServer(("127.0.0.1", 0), serve)
        server.start()
        servers.append(server)
        with Client(server.address) as client:
            return Request(titles, name, _Patient()).play(client, Seen())

    yield run
    for server in servers:
        server.stop()


def right(found: Content, version: str, *, status: str = "200 OK", fields: str = "") -> bytes:
    head = (
        f'HTTP/1.1 {status}\r\nContent-Length: {found.size}\r\nETag: "{version}"\r\n'
        f"Cache-Status: streamcache; hit\r\n{fields}\r\n"
    )
    return head.encode() + content(found.text, 0, found.size)


def of_another_size(found: Content, version: str) -> bytes:
    return right(found, version, status="206 Partial Content", fields=OTHER)


def nothing(status: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()


def test_a_right_answer_is_whole(ask: Callable[[Answer], str]) -> None:
    assert ask(right) == "whole"


def test_an_answer_that_ends_early_is_cut(ask: Callable[[Answer], str]) -> None:
    assert ask(lambda found, version: right(found, version)[:-1]) == "cut"
    assert ask(lambda *_: b"") == "cut"


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (lambda found, version: right(found, version)[:-1] + b"?", "wrong byte"),
        (lambda found, version: right(found, "0" * 32), "which is None"),
        (
            lambda found, version: right(found, version).replace(b"Length: ", b"Length: 1"),
            "answered",
        ),
        (lambda found, version: right(found, version)[:20], "half a head"),
        (lambda *_: nothing("500 Internal Server Error"), "status 500"),
        (of_another_size, "answered"),
    ],
)
def test_a_wrong_answer_is_found(ask: Callable[[Answer], str], answer: Answer, word: str) -> None:
    with pytest.raises(Wrong, match=word):
        ask(answer)


def test_404_and_old_versions_are_wrong_after_a_while_only(
    ask: Callable[[Answer], str], titles: Titles, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(lambda *_: nothing("404 Not Found")) == "404"
    monkeypatch.setattr(viewer, "SLACK", 0.0)
    gevent.sleep(0.01)
    with pytest.raises(Wrong, match="404, and it is there"):
        ask(lambda *_: nothing("404 Not Found"))
    assert ask(right) == "whole"
    for _ in range(60):
        titles.change()
    with pytest.raises(Wrong, match="was replaced"):
        ask(right)
    stale = b"streamcache; fwd=stale; hit"
    assert ask(lambda *x: right(*x).replace(b"streamcache; hit", stale)) == "whole"
