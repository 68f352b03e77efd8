"""``streamcache completion``: what makes a shell complete commands, flags and choices.

The scripts are made from the parser itself, so they cannot know other words than it does.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from streamcache.commands.command import OK, Command
from streamcache.config import TABLE
from streamcache.daemon.announce import say

SHELLS: Final = ("bash", "zsh", "fish")

_FILES: Final = frozenset({"FILE", "DIR", "SOURCE", "ACCESS_LOG"})

_ABOUT: Final = """\
Print a script that makes a shell complete the commands, their flags and what these can be."""

_MORE: Final = """\
bash, in ~/.bashrc:         source <(streamcache completion bash)
   for all users:           streamcache completion bash > /etc/bash_completion.d/streamcache
zsh, in ~/.zshrc:           source <(streamcache completion zsh)     (after compinit)
fish, in its config.fish:   streamcache completion fish | source"""


@dataclass(frozen=True, slots=True)
class Word:
    """A flag, or with no names an argument: what follows it, and its help."""

    names: tuple[str, ...]
    choices: tuple[str, ...]
    takes: str  # "" nothing, "file", "value"
    help: str


@dataclass(frozen=True, slots=True)
class Words:
    """What can be said after a command."""

    command: str
    help: str
    flags: tuple[Word, ...]
    arguments: tuple[Word, ...]


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or fish")


def run(arguments: argparse.Namespace) -> int:
    """Print the script; ``arguments.parser`` is that of the whole program."""
    program: argparse.ArgumentParser = arguments.parser
    write = {"bash": _bash, "zsh": _zsh, "fish": _fish}[arguments.shell]
    say(write(program.prog, list(words_of(program))))
    return OK


def words_of(program: argparse.ArgumentParser) -> Iterator[Words]:
    """Of the program itself (command ""), then of each command."""
    actions = program._actions
    yield Words("", "", tuple(_flags(actions)), ())
    for action in actions:
        if not isinstance(action, argparse._SubParsersAction):
            continue
        about = {choice.dest: choice.help or "" for choice in action._choices_actions}
        for name, parser in action.choices.items():
            flags = tuple(_flags(parser._actions))
            arguments = tuple(_word(one) for one in parser._actions if not one.option_strings)
            yield Words(name, about.get(name, ""), flags, arguments)


def _flags(actions: list[argparse.Action]) -> Iterator[Word]:
    for action in actions:
        if action.option_strings and action.help is not argparse.SUPPRESS:
            yield _word(action)


def _word(action: argparse.Action) -> Word:
    choices = tuple(map(str, action.choices or _choices_of(action.dest)))
    takes = "" if action.nargs == 0 else "value"
    if takes and action.metavar in _FILES:
        takes = "file"
    return Word(tuple(action.option_strings), choices, takes, _line(action.help or ""))


def _choices_of(name: str) -> tuple[str, ...]:
    """Of an option of the configuration, which argparse leaves to it."""
    section, _, key = name.partition(".")
    option = TABLE.get(section, {}).get(key)
    return option.choices if option is not None else ()


def _line(text: str) -> str:
    """The first words of a help, without what a shell would read."""
    plain = re.sub(r"\s+", " ", text.replace("%%", "%"))
    plain = re.split(r"[;(:]", plain)[0].strip()
    return re.sub(r"[^\w ,./%+=-]", "", plain)[:70].strip()


def _bash(prog: str, words: list[Words]) -> str:
    commands = " ".join(each.command for each in words if each.command)
    cases = []
    for each in words:
        if not each.command:
            continue
        flags = " ".join(name for flag in each.flags for name in flag.names)
        values = [
            f"                {'|'.join(flag.names)}) {_bash_value(flag)}; return;;"
            for flag in each.flags
            if flag.takes
        ]
        rest = next((_bash_value(one) for one in each.arguments), ":")
        cases += [
            f"        {each.command})",
            '            case "$before" in',
            *values,
            "            esac",
            '            if [[ "$word" == -* ]]; then',
            f'                COMPREPLY=($(compgen -W "{flags}" -- "$word"))',
            "            else",
            f"                {rest}",
            "            fi;;",
        ]
    top = " ".join(name for flag in words[0].flags for name in flag.names)
    return "\n".join(
        [
            f"# bash completion of {prog}; made by: {prog} completion bash",
            f"_{prog}() {{",
            "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}",
            "    COMPREPLY=()",
            "    if (( COMP_CWORD == 1 )); then",
            f'        COMPREPLY=($(compgen -W "{commands} {top}" -- "$word"))',
            "        return",
            "    fi",
            '    case "${COMP_WORDS[1]}" in',
            *cases,
            "    esac",
            "}",
            f"complete -F _{prog} {prog}",
        ]
    )


def _bash_value(word: Word) -> str:
    if word.choices:
        return f'COMPREPLY=($(compgen -W "{" ".join(word.choices)}" -- "$word"))'
    if word.takes == "file":
        return 'compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$word")'
    return ":"


def _zsh(prog: str, words: list[Words]) -> str:
    commands = "\n".join(f"        '{each.command}:{each.help}'" for each in words if each.command)
    cases = []
    for each in words:
        if not each.command:
            continue
        specs = [
            f"'{name}[{flag.help}]{_zsh_value(flag)}'" for flag in each.flags for name in flag.names
        ]
        specs += [f"'*{_zsh_value(one)}'" for one in each.arguments[:1]]
        cases.append(f"        {each.command})")
        cases.append(" \\\n                ".join(["            _arguments -s", *specs]) + ";;")
    return "\n".join(
        [
            f"#compdef {prog}",
            f"# zsh completion of {prog}; made by: {prog} completion zsh",
            f"_{prog}() {{",
            "    local -a commands",
            "    commands=(",
            commands,
            "    )",
            "    if (( CURRENT == 2 )); then",
            "        _describe command commands",
            "        return",
            "    fi",
            "    local command=$words[2]",
            "    shift words; (( CURRENT-- ))",
            '    case "$command" in',
            *cases,
            "    esac",
            "}",
            f"compdef _{prog} {prog}",
        ]
    )


def _zsh_value(word: Word) -> str:
    if word.names and not word.takes:
        return ""
    if word.choices:
        return f":value:({' '.join(word.choices)})"
    return ":file:_files" if word.takes == "file" else ":value: "


def _fish(prog: str, words: list[Words]) -> str:
    lines = [
        f"# fish completion of {prog}; made by: {prog} completion fish",
        f"complete -c {prog} -f",
    ]
    for each in words:
        when = f'-n "__fish_seen_subcommand_from {each.command}"' if each.command else ""
        if each.command:
            lines.append(
                f'complete -c {prog} -n __fish_use_subcommand -a {each.command} -d "{each.help}"'
            )
        else:
            when = "-n __fish_use_subcommand"
        for flag in each.flags:
            names = " ".join(
                f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
                for name in flag.names
            )
            lines.append(f'complete -c {prog} {when} {names}{_fish_value(flag)} -d "{flag.help}"')
        for one in each.arguments[:1]:
            if one.choices:
                lines.append(f'complete -c {prog} {when} -a "{" ".join(one.choices)}"')
            elif one.takes == "file":
                lines.append(f"complete -c {prog} {when} -F")
    return "\n".join(lines)


def _fish_value(word: Word) -> str:
    if not word.takes:
        return ""
    if word.choices:
        return f' -x -a "{" ".join(word.choices)}"'
    return " -r -F" if word.takes == "file" else " -x"


COMMAND: Final = Command("completion", "print what makes a shell complete", _ABOUT, _MORE, add, run)
