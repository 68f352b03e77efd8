"""Names that are meant to lead out of the source, also while it changes under them."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.conftest import wait_until
from tests.daemon_process import DaemonProcess

SECRET = b"the secret outside"
INSIDE = b"what is inside"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    outside, source = root / "outside", root / "films"
    (outside / "folder").mkdir(parents=True)
    (source / "a" / "b").mkdir(parents=True)
    for secret in ("secret.txt", "folder/secret.txt"):
        (outside / secret).write_bytes(SECRET)
    (root / "secret.txt").write_bytes(SECRET)
    for inside in ("a/b/inside.txt", "secret.txt.txt", "c\\d.txt", "..secret", "...", "%2e%2e"):
        (source / inside).write_bytes(INSIDE)
    links = {
        "out": "../outside",
        "out.txt": "../outside/secret.txt",
        "absolute": os.fspath(outside),
        "absolute.txt": os.fspath(outside / "secret.txt"),
        "twice": "a/up",
        "a/up": "../../outside",
        "through": "../films/../outside/secret.txt",
        "fd": "/proc/self/fd",
        "root": "/proc/self/root",
        "cwd": "/proc/self/cwd",
        "environ": "/proc/self/environ",
        "within.txt": "a/b/inside.txt",
        "loop": "loop",
    }
    for name, target in links.items():
        (source / name).symlink_to(target)
    os.link(source / "secret.txt.txt", source / "hard.txt")
    for path in source.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.utime(path, (1, 1))
    return source


@pytest.fixture(scope="module")
def server(source: Path) -> Iterator[DaemonProcess]:
    """Asks the source for each request: what is remembered of a name leads nowhere anyway."""
    with DaemonProcess(
        *(source, "--admin", "off", "--revalidate", "0s"),
        environment={"STREAMCACHE_SOURCE_NEGATIVE_TTL": "0s"},
    ) as running:
        yield running


def get(server: DaemonProcess, target: bytes) -> tuple[int, bytes]:
    with socket.create_connection(server.address, 20) as connection:
        connection.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        answer = b""
        while more := connection.recv(65536):
            answer += more
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head[9:12]), body


UP = [  # each a way to write "..", or what somebody may take for it
    b"..",
    b"%2e%2e",
    b"%2E%2e",
    b".%2e",
    b"%2e.",
    b"%252e%252e",
    b"%25252e%25252e",
    b"%c0%ae%c0%ae",  # overlong UTF-8
    b"%e0%80%ae%e0%80%ae",
    b"%f0%80%80%ae%f0%80%80%ae",
    b"%fc%80%80%80%80%ae%fc%80%80%80%80%ae",
    b"%uff0e%uff0e",
    b"%ef%bc%8e%ef%bc%8e",  # full-width dots
    b"%e2%80%a5",  # two-dot leader
    b"..%00",
    b"..%20",
    b"..%09",
    b"..;",
    b"..;a=b",
    b"....",
    b".%00.",
    b"%2e%2e%2e",
    b"..%0d%0a",
]
SLASH = [b"/", b"%2f", b"%2F", b"%5c", b"\\", b"%252f", b"%c0%af", b"%e0%80%af", b"//", b"/./"]


@pytest.mark.parametrize("slash", SLASH)
@pytest.mark.parametrize("up", UP)
def test_no_spelling_leads_out(server: DaemonProcess, up: bytes, slash: bytes) -> None:
    for target in (
        b"/" + up + slash + b"secret.txt",
        b"/a/b" + slash + (up + slash) * 3 + b"secret.txt",
        b"/a" + slash + up + slash + up + slash + b"outside" + slash + b"secret.txt",
    ):
        status, body = get(server, target)
        assert status in (400, 404), target
        assert SECRET not in body


@pytest.mark.parametrize(
    "target",
    [
        b"/out/secret.txt",
        b"/out.txt",
        b"/absolute/secret.txt",
        b"/absolute.txt",
        b"/twice/secret.txt",
        b"/a/up/secret.txt",
        b"/through",
        b"/fd/0",
        b"/root/etc/passwd",
        b"/cwd/setup.cfg",
        b"/environ",
        b"/loop",
        b"/out/../secret.txt",
        b"/secret.txt%00.txt",
        b"/secret.txt.txt%00",
        b"/%00",
        b"/a/b/inside.txt/",
        b"/a/b/inside.txt/.",
        b"/a/b/inside.txt/x",
        b"file:///etc/passwd",
        b"http://h/../secret.txt",
        b"/etc/passwd",
        b"//etc/passwd",
        b"///proc/self/environ",
        b"/c/d.txt",
        b"/" + b"a/" * 2000 + b"x",
        b"/" + b"x" * 300,
    ],
)
def test_what_is_no_file_of_the_source_is_not_found(server: DaemonProcess, target: bytes) -> None:
    status, body = get(server, target)
    assert status in (400, 404)
    assert SECRET not in body


@pytest.mark.parametrize(
    "target",
    [
        b"/within.txt",
        b"/hard.txt",
        b"/a/../a/b/./inside.txt",
        b"/%61/b/inside.txt",
        b"//a//b//inside.txt",
        b"/c%5Cd.txt",
        b"/..secret",
        b"/...",
        b"/%252e%252e",
    ],
)
def test_odd_names_of_files_that_are_there_are_served(server: DaemonProcess, target: bytes) -> None:
    assert get(server, target) == (200, INSIDE)


@contextlib.contextmanager
def swapping(source: Path, outside: str) -> Iterator[None]:
    """A folder and a file become links to what is outside, and themselves again, all the time."""
    stop = threading.Event()
    for name, target in (("race", outside), ("file", f"{outside}/secret.txt")):
        (source / f"{name}.link").symlink_to(target)

    def swap() -> None:
        while not stop.is_set():
            for name in ("race", "file.txt"):
                stem = name.partition(".")[0]
                real, link, spare = source / name, source / f"{stem}.link", source / f"{stem}.spare"
                os.rename(real, spare)
                os.rename(link, real)
                os.rename(real, link)
                os.rename(spare, real)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        yield
    finally:
        stop.set()
        swapper.join()
        for name in ("race", "file"):
            (source / f"{name}.link").unlink()


def test_a_link_that_is_swapped_in_while_requests_run_leads_nowhere(
    server: DaemonProcess, source: Path
) -> None:
    """A folder, and a file, that become links to what is outside between two looks."""
    outside = os.fspath(source.parent / "outside" / "folder")
    targets = (b"/race/secret.txt", b"/file.txt")
    (source / "race").mkdir()
    for path in (source / "race" / "secret.txt", source / "file.txt"):
        path.write_bytes(INSIDE)
        os.utime(path, (1, 1))
    found: set[int] = set()
    for _ in range(10):
        with swapping(source, outside):
            for _ in range(20):
                for target in targets:
                    status, body = get(server, target)
                    assert SECRET not in body
                    assert status != 200 or body == INSIDE
                    found.add(status)
            assert get(server, b"/..secret") == (200, INSIDE)  # which nobody touches
        for target in targets:
            # Once the last copy that saw it change has ended.
            wait_until(lambda target=target: get(server, target) == (200, INSIDE), "it is served")
    # 503: a file that is seen changing while it is read is not mixed with what it becomes.
    assert 404 in found
    assert found <= {200, 404, 503}
    cached = [path.read_bytes() for path in server.cache_dir.rglob("objects/*/*")]
    assert INSIDE in cached
    assert SECRET not in cached
    assert "source does not answer" not in server.log  # that a file changes says nothing of others
    assert not re.search(r"Traceback", server.log)
