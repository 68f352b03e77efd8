"""Which responses have a line: not those of some clients, and of the others a share."""

from __future__ import annotations

from random import Random

import pytest

from streamcache.config.log import LogConfig
from streamcache.server.logchoice import Choice
from streamcache.server.logline import Served

NETWORKS = "10.0.0.0/8, 2001:db8::/32, unix, ::1"


def served(
    client: str = "192.0.2.1", status: int = 200, *, path: str = "/a", whole: bool = True
) -> Served:
    return Served(client, "GET", path, "HTTP/1.1", path, status, 1, "hit", whole=whole)


@pytest.mark.parametrize(
    ("client", "logged"),
    [
        ("192.0.2.1", True),
        ("10.0.0.0", False),
        ("10.255.1.2", False),
        ("11.0.0.0", True),
        ("::ffff:10.1.2.3", False),
        ("2001:db8::7", False),
        ("2001:db9::7", True),
        ("::1", False),
        ("::2", True),
        ("unix", False),
        ("unknown", True),
    ],
)
def test_clients_of_some_networks_are_never_logged(client: str, logged: bool) -> None:
    choice = Choice(LogConfig(ignore_networks=NETWORKS, sample=0.0))
    for status in (404, 503, 404):
        assert choice.takes(served(client, status)) is logged
    assert not choice.everything


@pytest.mark.parametrize(
    ("path", "logged"),
    [
        ("/probe.txt", False),
        ("/probe.txt2", True),
        ("/a/probe.txt", True),
        ("/thumbs/a/b.jpg", False),
        ("/x/1.tmp", False),
        ("/x/y/1.tmp", True),
        ("-", True),
    ],
)
def test_some_paths_are_never_logged(path: str, logged: bool) -> None:
    choice = Choice(LogConfig(ignore_paths="/probe.txt, /thumbs/**, /*/*.tmp"))
    assert choice.takes(served(path=path, status=404)) is logged
    assert not choice.everything


def test_what_could_not_be_read_is_logged_whatever_paths_are_not() -> None:
    assert Choice(LogConfig(ignore_paths="/*")).takes(served(path="-", status=400))


def test_it_is_the_decoded_path_that_is_ignored_on_both_paths(site, tmp_path, path_taken) -> None:
    log = tmp_path / "log"
    here = site(log={"access": str(log), "ignore_paths": "/a.*"})
    client = here.client()
    for target in ("/a.bin", "/%61.bin?x", "/x/../a.bin", "/one.bin", "/a.none"):
        client.ask(target)
    assert here.fast == (0 if path_taken == "slow" else 4)
    here.server.stop(timeout=0)
    (line,) = log.read_text().splitlines()
    assert "/one.bin" in line


@pytest.mark.parametrize("share", [0.01, 0.25, 0.9])
def test_a_sample_is_a_share_in_the_long_run(share: float) -> None:
    choice = Choice(LogConfig(sample=share), Random(7))
    taken = sum(choice.takes(served()) for _ in range(100_000))
    assert taken / 100_000 == pytest.approx(share, abs=0.004)


def test_chance_is_not_the_same_in_each_process() -> None:
    taken = [
        [choice.takes(served()) for _ in range(64)]
        for choice in (Choice(LogConfig(sample=0.5)) for _ in range(2))
    ]
    assert taken[0] != taken[1]


def test_errors_and_what_was_cut_are_always_in_a_sample() -> None:
    choice = Choice(LogConfig(sample=0.0))
    assert not any(choice.takes(served(status=status)) for status in (200, 206, 304))
    assert all(choice.takes(served(status=status)) for status in (400, 404, 429, 500, 504))
    assert choice.takes(served(whole=False))


def test_without_an_option_everything_is_logged() -> None:
    choice = Choice(LogConfig())
    assert choice.everything
    assert choice.takes(served())


def test_both_paths_leave_the_same_out(site, tmp_path, path_taken) -> None:
    log = tmp_path / "log"
    here = site(log={"access": str(log), "sample": 0.0})
    client = here.client()
    for _ in range(20):
        assert client.ask("/a.bin").status == 200
    assert client.ask("/none").status == 404
    assert here.fast == (20 if path_taken != "slow" else 0)
    here.server.stop(timeout=0)
    (line,) = log.read_text().splitlines()
    assert '"GET /none HTTP/1.1" 404' in line


def test_an_ignored_client_is_served_and_not_logged(site, tmp_path) -> None:
    log = tmp_path / "log"
    here = site(log={"access": str(log), "ignore_networks": "127.0.0.0/8"})
    assert here.client().ask("/a.bin").body == here.contents["/a.bin"]
    assert here.client().ask("/none").status == 404
    here.server.stop(timeout=0)
    assert log.read_text() == ""
