"""Completion, in the real shells."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from streamcache.cli import COMMANDS
from tests.commands.running import run
from tests.requirements import program


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    (folder / "some file.log").touch()
    (folder / "other").mkdir()
    for shell in ("bash", "zsh", "fish"):
        done = run("completion", shell)
        assert (done.code, done.err) == (0, "")
        (folder / f"script.{shell}").write_text(done.out)
    return folder


def shell(*arguments: str, stdin: str = "", at: Path) -> str:
    done = subprocess.run(
        arguments, input=stdin, capture_output=True, text=True, timeout=60, cwd=at, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def bash(scripts: Path, *words: str) -> list[str]:
    """What bash would offer for the last of these words."""
    quoted = " ".join(f"'{word}'" for word in ("streamcache", *words))
    script = f"""
        source script.bash
        complete -p streamcache | grep -q _streamcache || exit 9
        compopt() {{ :; }}
        COMP_WORDS=({quoted}); COMP_CWORD={len(words)}
        _streamcache
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    program("bash")
    return shell("bash", "--norc", "-c", script, at=scripts).splitlines()


def zsh(scripts: Path, line: str, *expected: str) -> str:
    """What a zsh on a terminal shows when Tab is pressed behind this line.

    It has no other way to tell that it is done than being quiet: on a busy machine that may be
    for a while, so what is expected is waited for longer, if it does not come.
    """
    for patience in (1, 5, 25):
        shown = _zsh(scripts, line, patience)
        if all(text in shown for text in expected):
            break
    return shown


def _zsh(scripts: Path, line: str, patience: int) -> str:
    program("zsh")
    script = f"""
        zmodload zsh/zpty
        zpty z 'zsh -f -i'
        zpty -w z 'PS1= ; LISTMAX=1000; stty columns 200; autoload -Uz compinit; compinit -u -D'
        zpty -w z 'source ./script.zsh; zstyle ":completion:*" list-separator "--"; print REA''DY'
        while zpty -r z line; do [[ $line == *READY* ]] && break; done
        zpty -w -n z $'{line}\\t'
        sleep {0.2 * patience}; zpty -w -n z $'\\t'
        for turn in {{1..300}}; do
            sleep 0.1
            while zpty -rt z line; do print -r -- "$line"; quiet=0; done
            (( ++quiet > {4 * patience} )) && break
        done
        zpty -d z
    """
    return shell("zsh", "-f", "-c", script, at=scripts)


def fish(scripts: Path, line: str) -> list[str]:
    program("fish")
    script = f"source script.fish; complete -C '{line}'"
    found = shell("fish", "--no-config", "-c", script, at=scripts).splitlines()
    return [each.partition("\t")[0] for each in found]


def test_bash_offers_commands_flags_choices_and_files(scripts: Path) -> None:
    assert set(bash(scripts, "")) >= {command.name for command in COMMANDS} | {"--version"}
    assert bash(scripts, "pu") == ["purge"]
    assert bash(scripts, "purge", "--so") == ["--soft"]
    assert bash(scripts, "ls", "--sort", "") == ["path", "size", "used", "hits"]
    assert bash(scripts, "serve", "--log-level", "w") == ["warning"]
    assert bash(scripts, "completion", "z") == ["zsh"]
    assert bash(scripts, "simulate", "some") == ["some file.log"]
    assert bash(scripts, "serve", "--config", "o") == ["other"]
    assert bash(scripts, "warm", "--at-once", "") == [""]


def test_zsh_offers_commands_flags_and_choices(scripts: Path) -> None:
    names = [command.name for command in COMMANDS]
    shown = zsh(scripts, "streamcache ", *names)
    for name in names:
        assert name in shown
    assert "--dry-run" in zsh(scripts, "streamcache purge --d", "--dry-run")
    shown = zsh(scripts, "streamcache ls --sort ", "hits", "used")
    assert "hits" in shown and "used" in shown


def test_fish_offers_commands_flags_choices_and_files(scripts: Path) -> None:
    assert set(fish(scripts, "streamcache ")) >= {command.name for command in COMMANDS}
    assert fish(scripts, "streamcache purge --so") == ["--soft"]
    assert set(fish(scripts, "streamcache ls --sort ")) == {"path", "size", "used", "hits"}
    assert "some file.log" in fish(scripts, "streamcache simulate some")
    assert fish(scripts, "streamcache pin some") == []


def test_every_flag_of_every_command_is_offered(scripts: Path) -> None:
    for command in COMMANDS:
        told = run(command.name, "--help").out if command.name == "warm" else ""
        for flag in ("--from", "--pin", "--detach") if told else ():
            assert flag in told
            assert bash(scripts, command.name, flag) == [flag]
