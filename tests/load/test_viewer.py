"""The viewer of the load test notices every wrong answer, and where it is wrong."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.content import content
from tests.load.titles import Title, dumps, loads
from tests.load.viewer import Viewer, Wrong

TITLE = Title("films/a b.mp4", 200_000)


@pytest.fixture
def answers() -> Iterator[Callable[[bytes], Viewer]]:
    """``answers(raw)``: a viewer whose server says these bytes to each request and hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))
    viewers: list[Viewer] = []
    threads: list[threading.Thread] = []

    def serve(raw: bytes) -> None:
        while True:
            try:
                peer, _address = listener.accept()
            except OSError:
                return
            with peer:
                if peer.recv(65536):
                    peer.sendall(raw)

    def start(raw: bytes) -> Viewer:
        threads.append(threading.Thread(target=serve, args=(raw,)))
        threads[-1].start()
        viewers.append(Viewer(f"http://127.0.0.1:{listener.getsockname()[1]}"))
        return viewers[-1]

    yield start
    for viewer in viewers:
        viewer.close()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for thread in threads:
        thread.join()


def partial(start: int, stop: int, body: bytes) -> bytes:
    """A 206 for [start, stop) with this body."""
    return (
        b"HTTP/1.1 206 Partial Content\r\n"
        + f"Content-Range: bytes {start}-{stop - 1}/{TITLE.size}\r\n".encode()
        + f"Content-Length: {stop - start}\r\n\r\n".encode()
        + body
    )


def watch(viewer: Viewer, start: int, stop: int | None) -> int:
    """Bytes received and verified."""
    watching = viewer.watch(TITLE, start, stop)
    for _ in watching.pieces():
        pass
    assert watching.first_byte is not None
    return watching.received


def test_a_right_answer_passes(answers) -> None:
    raw = partial(70_000, 170_000, content(TITLE.name, 70_000, 170_000))
    assert watch(answers(raw), 70_000, 170_000) == 100_000


def test_a_wrong_byte_is_named(answers) -> None:
    body = bytearray(content(TITLE.name, 70_000, 170_000))
    body[99_000] ^= 0x80
    with pytest.raises(Wrong, match=r"films/a b\.mp4: wrong byte at 169000"):
        watch(answers(partial(70_000, 170_000, bytes(body))), 70_000, 170_000)


def test_missing_bytes_are_named(answers) -> None:
    body = content(TITLE.name, 70_000, 120_000)
    with pytest.raises(Wrong, match=r"bytes missing from 120000 to 170000"):
        watch(answers(partial(70_000, 170_000, body)), 70_000, 170_000)


def test_an_answer_of_another_range_is_noticed(answers) -> None:
    raw = partial(70_001, 170_001, content(TITLE.name, 70_001, 170_001))
    with pytest.raises(Wrong, match=r"Content-Range is bytes 70001-170000/200000"):
        watch(answers(raw), 70_000, 170_000)


def test_an_answer_of_another_length_is_noticed(answers) -> None:
    body = content(TITLE.name, 0, 100)
    with pytest.raises(Wrong, match=r"Content-Length is 100, must be 200000"):
        watch(answers(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + body), 0, None)


@pytest.mark.parametrize("raw", [b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", b"junk\r\n\r\n"])
def test_no_such_answer_passes(answers, raw: bytes) -> None:
    with pytest.raises(Wrong):
        watch(answers(raw), 0, 100)


def test_a_server_that_hangs_up_is_noticed(answers) -> None:
    with pytest.raises(Wrong, match="no answer"):
        watch(answers(b""), 0, 100)


def test_the_index_survives_its_file() -> None:
    titles = [TITLE, Title("b", 1, premiere=True)]
    assert loads(dumps(titles)) == titles
