"""Finding a server and asking it: each way in which that fails says what to do."""

from __future__ import annotations

import os
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.commands.running import call

STATUS = '{"error": "that is not to be had"}'


class Answers(BaseHTTPRequestHandler):
    """One answer to all questions."""

    status = 200
    body = b"{}"

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def address_string(self) -> str:
        return ""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def listen() -> Iterator[Callable[..., Path]]:
    """``listen(path, status, body)``: a server that gives one answer."""
    with ExitStack() as stack:

        def start(path: Path, status: int = 200, body: bytes = b"{}") -> Path:
            path.parent.mkdir(parents=True, exist_ok=True)
            kind = type("Answers", (Answers,), {"status": status, "body": body})
            server = socketserver.ThreadingUnixStreamServer(os.fspath(path), kind)
            stack.callback(server.server_close)
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return path

        yield start


def ask(*arguments: str, **env: str) -> tuple[int, str]:
    """Exit code and the one line of the error."""
    done = call("status", *arguments, **env)
    assert done.out == ""
    assert len(done.err.splitlines()) == 1, done.err
    return done.code, done.err.strip().removeprefix("streamcache: error: ")


def test_no_server_is_found(tmp_path: Path) -> None:
    runtime = tmp_path / "streamcache"
    runtime.mkdir()
    (runtime / "not-a-socket.sock").touch()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(runtime / "127.0.0.1-8080.sock"))
    code, said = ask(RUNTIME_DIRECTORY=os.fspath(runtime))
    assert code == 1
    assert said.startswith(f"no running server found in {runtime}:")
    assert "streamcache serve SOURCE" in said and "--admin" in said


def test_the_only_server_is_found(tmp_path: Path, listen: Callable[..., Path]) -> None:
    listen(tmp_path / "streamcache" / "127.0.0.1-8080.sock", 404, STATUS.encode())
    code, said = ask(XDG_RUNTIME_DIR=os.fspath(tmp_path))
    assert (code, said) == (1, "that is not to be had")


def test_of_several_one_must_be_named(tmp_path: Path, listen: Callable[..., Path]) -> None:
    paths = [listen(tmp_path / f"127.0.0.1-{port}.sock", 500, STATUS.encode()) for port in (1, 2)]
    code, said = ask(RUNTIME_DIRECTORY=os.fspath(tmp_path))
    assert code == 1
    assert said == (f"2 servers run here: name one with --admin: unix:{paths[0]}, unix:{paths[1]}")
    assert ask("--admin", f"unix:{paths[1]}") == (1, "that is not to be had")
    assert ask(STREAMCACHE_SERVER_ADMIN=f"unix:{paths[1]}") == (1, "that is not to be had")


def test_nobody_listens_there(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for named in (address, f"unix:{tmp_path / 'none'}"):
            code, said = ask("--admin", named)
            assert code == 1
            assert said.startswith(f"{named}: no server listens there; its log says where")


@pytest.mark.parametrize("address", ["nonsense", "unix:", "::1:80", "h:99999"])
def test_what_is_no_address_is_said(address: str) -> None:
    code, said = ask("--admin", address)
    assert code == 2 and said.startswith("--admin: ")


def test_what_is_no_streamcache_is_said(tmp_path: Path, listen: Callable[..., Path]) -> None:
    path = listen(tmp_path / "x.sock", 200, b"<html>hello</html>")
    code, said = ask("--admin", f"unix:{path}")
    assert code == 1
    assert said.startswith(f"unix:{path} is no admin listener of streamcache: no JSON came back; ")
    path = listen(tmp_path / "y.sock", 404, b"<html>hello</html>")  # where clients connect, say
    code, said = ask("--admin", f"unix:{path}")
    assert code == 1
    assert said.startswith(f"unix:{path} is no admin listener of streamcache: it answered 404 Not")


def test_a_server_that_hangs_up_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        listener.listen()

        def hang_up() -> None:
            listener.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        code, said = ask("--admin", f"unix:{path}")
        thread.join()
    assert code == 1 and said.startswith(f"unix:{path}: ")


def test_who_may_not_ask_is_told_who_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listen: Callable[..., Path]
) -> None:
    """As root all may be asked: so the refusal is the kernel's word only for the others."""
    import argparse

    from streamcache.commands import asking

    path = listen(tmp_path / "127.0.0.1-8080.sock")

    class Refusing(socket.socket):
        def connect(self, address: object) -> None:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(asking.socket, "socket", Refusing)
    monkeypatch.setenv("RUNTIME_DIRECTORY", os.fspath(tmp_path))
    monkeypatch.delenv("STREAMCACHE_SERVER_ADMIN", raising=False)
    for named in ("", f"unix:{path}"):
        with pytest.raises(asking.NoServer) as refused:
            asking.Server.of(argparse.Namespace(admin=named)).get("/api/status")
        said = f"unix:{path}: permission denied: be the server's user, or root"
        assert str(refused.value) == said


def test_workers_that_do_not_answer_are_named(tmp_path: Path, listen: Callable[..., Path]) -> None:
    others = '"others": {"count": 0}, "unanswered": ["w2"]'
    body = b'{"entries": [], "next": null, "count": 0, %b}' % others.encode()
    path = listen(tmp_path / "x.sock", 200, body)
    done = call("ls", "--admin", f"unix:{path}")
    assert "no answer from w2" in done.err
