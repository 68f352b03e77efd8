"""Options that change while a server runs: the next request is judged by the new ones."""

from __future__ import annotations

import base64
import os
import threading
from pathlib import Path

import bcrypt
import gevent
import pytest

from streamcache.config import Config, changed
from streamcache.errors import ConfigError
from streamcache.server import accesslog
from tests.server.client import eventually
from tests.server.conftest import PLAIN


def options(here, section: str, **values: object) -> Config:
    """What the server runs with, but for these."""
    return changed(here.server._config, section, **values)


def password(name: str, word: str) -> str:
    return "Authorization: Basic " + base64.b64encode(f"{name}:{word}".encode()).decode()


def hashed(name: str, word: str) -> str:
    return f"{name}:{bcrypt.hashpw(word.encode(), bcrypt.gensalt(4)).decode()}\n"


def test_networks_hold_for_connections_that_are_open(site) -> None:
    here = site()
    client = here.client()
    for _ in range(2):
        assert client.ask("/a.bin").status == 200
    for rules, status in (("deny 127.0.0.1", 403), ("", 200), ("allow 192.0.2.1", 403)):
        assert here.server.reconfigure(options(here, "access", networks=rules)) == ()
        for _ in range(2):
            assert client.ask("/a.bin").status == status


def test_users_are_read_again_though_the_option_is_the_same(site, tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text(hashed("eve", "old"))
    here = site(access={"htpasswd": os.fspath(file)})
    client = here.client()
    assert client.ask("/a.bin", password("eve", "old")).status == 200
    file.write_text(hashed("eve", "new"))
    assert client.ask("/a.bin", password("eve", "new")).status == 401
    assert here.server.reconfigure(here.server._config) == ()
    assert client.ask("/a.bin", password("eve", "old")).status == 401  # not remembered as right
    assert client.ask("/a.bin", password("eve", "new")).status == 200


def test_a_file_that_cannot_be_used_changes_nothing(site, tmp_path: Path) -> None:
    here = site()
    before = here.server._config
    wanted = changed(options(here, "limits", ranges=1), "access", keys=str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"access\.keys"):
        here.server.reconfigure(wanted)
    wanted = changed(options(here, "limits", ranges=1), "log", access=str(tmp_path / "no" / "log"))
    with pytest.raises(ConfigError, match=r"log\.access"):
        here.server.reconfigure(wanted)
    assert here.server._config is before
    assert here.client().ask("/a.bin").status == 200


@PLAIN
def test_limits_hold_from_the_next_request_on(site) -> None:
    here = site()
    client = here.client()
    assert client.ask("/a.bin", "Range: bytes=0-1,4-5").status == 206
    wanted = changed(options(here, "limits", ranges=1, connections=1), "server", backlog=5)
    assert here.server.reconfigure(wanted) == ("server.backlog",)
    assert client.ask("/a.bin", "Range: bytes=0-1,4-5").status == 200
    second = here.client()
    assert second.response().status == 503
    here.server.reconfigure(options(here, "limits", connections=5, target_size=20))
    third = here.client()
    assert third.ask("/a.bin").status == 200
    assert third.ask("/" + 30 * "a").status == 414


def test_a_shorter_time_closes_who_is_idle(site) -> None:
    here = site()
    client = here.client()
    here.server.reconfigure(options(here, "limits", keepalive_timeout=0.05, head_timeout=0.05))
    assert client.ask("/a.bin").status == 200
    assert client.until_closed() == b""


def test_a_response_that_runs_goes_on(site) -> None:
    here = site()
    client = here.client(receive_buffer=4096)
    client.send(b"GET /big.bin HTTP/1.1\r\nHost: x\r\n\r\n")
    eventually(lambda: here.phases() == ["SENDING"])
    here.server.reconfigure(options(here, "access", networks="deny all"))
    assert client.response().body == here.contents["/big.bin"]
    assert client.ask("/a.bin").status == 403


def test_the_log_moves_and_no_line_is_lost(site, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    here = site(log={"access": os.fspath(first)})
    client = here.client()
    client.ask("/a.bin")
    here.server.reconfigure(options(here, "log", access=os.fspath(second)))
    client.ask("/b.bin")
    eventually(lambda: "/a.bin" in first.read_text())
    eventually(lambda: "/b.bin" in second.read_text())
    assert "/b.bin" not in first.read_text()


@pytest.mark.parametrize("stops", [False, True])
def test_a_new_log_on_a_disk_that_hangs_holds_nobody(site, tmp_path, monkeypatch, stops) -> None:
    hangs, real = threading.Event(), accesslog.open_log

    def slow(path: str) -> int:
        hangs.wait(10)
        return real(path)

    here = site(log={"access": os.fspath(tmp_path / "first")})
    monkeypatch.setattr(accesslog, "open_log", slow)
    wanted = options(here, "log", access=os.fspath(tmp_path / "second"), format="json")
    reload = gevent.spawn(here.server.reconfigure, wanted)
    gevent.sleep(0)
    client = here.client()
    for _ in range(3):
        assert client.ask("/a.bin").status == 200
    assert not reload.ready()
    if stops:
        here.server.stop(timeout=0)
    hangs.set()
    reload.get(timeout=10)
    if not stops:
        client.ask("/b.bin")
        eventually(lambda: '"/b.bin"' in (tmp_path / "second").read_text())
    eventually(lambda: (tmp_path / "first").read_text().count("/a.bin") == 3)


def test_a_log_that_cannot_be_opened_is_refused_and_the_old_one_kept(site, tmp_path) -> None:
    here = site(log={"access": os.fspath(tmp_path / "log")})
    with pytest.raises(ConfigError, match=r"log\.access: .*Is a directory"):
        here.server.reconfigure(options(here, "log", access=os.fspath(tmp_path)))
    here.client().ask("/a.bin")
    eventually(lambda: "/a.bin" in (tmp_path / "log").read_text())


def test_a_renamed_log_is_left_when_it_is_opened_again(site, tmp_path: Path) -> None:
    path = tmp_path / "log"
    here = site(log={"access": os.fspath(path)})
    client = here.client()
    client.ask("/a.bin")
    path.rename(tmp_path / "log.1")
    here.server.reopen_logs()
    client.ask("/b.bin")
    eventually(lambda: path.exists() and "/b.bin" in path.read_text())
    assert "/a.bin" in (tmp_path / "log.1").read_text()


def test_a_server_that_stops_meanwhile_stays_stopped(site) -> None:
    here = site()
    reload = gevent.spawn(here.server.reconfigure, options(here, "access", networks="deny all"))
    gevent.sleep(0)
    here.server.stop(timeout=0)
    assert reload.get(timeout=10) == ()
    assert not here.server.started


def test_rules_that_do_not_go_together_with_what_stays_are_refused(site) -> None:
    here = site(access={"proxy_protocol": True, "trusted_proxies": "127.0.0.1"})
    with pytest.raises(ConfigError, match="trusted_proxies"):
        here.server.reconfigure(options(here, "access", proxy_protocol=False, trusted_proxies=""))


def test_before_the_start_it_is_what_it_starts_with(site) -> None:
    here = site()
    here.server.stop(timeout=0)
    assert here.server.reconfigure(options(here, "access", networks="deny all")) == ()
    assert here.server._config.access.networks == "deny all"
