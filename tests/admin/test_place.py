"""Where the admin sockets are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from streamcache.admin.place import default_directory, make_directory, socket_name, sockets_in
from streamcache.server.address import Address


@pytest.mark.parametrize(
    ("environ", "user", "expected"),
    [
        ({"RUNTIME_DIRECTORY": "/run/one:/run/two", "XDG_RUNTIME_DIR": "/x"}, 7, "/run/one"),
        ({"RUNTIME_DIRECTORY": "relative", "XDG_RUNTIME_DIR": "/x"}, 7, "/x/streamcache"),
        ({"XDG_RUNTIME_DIR": "relative"}, 0, "/run/streamcache"),
        ({}, 4_000_000, "/tmp/streamcache-4000000"),
    ],
)
def test_the_default_directory(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], user: int, expected: str
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    assert default_directory(environ, user) == expected


def test_it_is_made_for_its_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "run"
    make_directory(os.fspath(path))
    assert path.stat().st_mode & 0o777 == 0o700
    make_directory(os.fspath(path))


def test_one_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir()
    path.chmod(0o777)
    with pytest.raises(PermissionError, match="by others"):
        make_directory(os.fspath(path))
    path.rmdir()
    path.symlink_to(tmp_path)
    with pytest.raises(NotADirectoryError):
        make_directory(os.fspath(path))


def test_a_socket_is_named_after_its_server() -> None:
    assert socket_name(Address.parse("127.0.0.1:8080")) == "127.0.0.1-8080.sock"
    assert socket_name(Address.parse("[::1]:80")) == "::1-80.sock"
    one, two = (socket_name(Address(path=f"/{where}/http.sock")) for where in ("a", "b"))
    assert one != two
    assert one.startswith("unix-http.sock-") and one.endswith(".sock")
    assert len(socket_name(Address(path="/x" * 200))) < 80


def test_the_servers_of_a_directory(tmp_path: Path) -> None:
    for name in ("b.sock", "a.sock", "other"):
        (tmp_path / name).touch()
    assert sockets_in(os.fspath(tmp_path)) == [f"{tmp_path}/a.sock", f"{tmp_path}/b.sock"]
    assert sockets_in(os.fspath(tmp_path / "none")) == []
