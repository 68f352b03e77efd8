"""Help that teaches: what a command does, an example of it, and no line too long."""

from __future__ import annotations

import re

import pytest

from streamcache.cli import COMMANDS
from streamcache.commands.command import Command
from tests.commands.running import call

ASKING = {"status", "top", "ls", "show", "warm", "purge", "pin"}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_says_what_it_does_and_shows_how(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    told = call(command.name, "--help", COLUMNS="100")
    assert (told.code, told.err) == (0, "")
    assert command.about in told.out
    assert re.search(rf"^ .*streamcache {command.name}", told.out, re.MULTILINE), "an example"
    assert max(map(len, told.out.splitlines())) <= 100
    if command.name in ASKING:
        assert "--admin ADDRESS" in told.out and "--json" in told.out
        assert "$STREAMCACHE_SERVER_ADMIN" in told.out


def test_the_list_of_commands_has_them_all() -> None:
    told = call("--help").out
    for command in COMMANDS:
        assert re.search(rf"^ +{command.name}\s+{re.escape(command.help[:30])}", told, re.MULTILINE)
    assert {command.name for command in COMMANDS} > ASKING


@pytest.mark.parametrize("name", sorted(ASKING - {"ls", "status", "top"}))
def test_what_is_missing_is_said_in_one_line(name: str) -> None:
    done = call(name, "--admin", "unix:/none")
    assert done.code in (1, 2) and len(done.err.splitlines()) == 1
    done = call(name, "--no-such-flag")
    assert done.code == 2 and " --help)" in done.err
