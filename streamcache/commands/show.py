"""``streamcache show``: all that a server knows of one path."""

from __future__ import annotations

import argparse
from typing import Any, Final

from streamcache.commands import output
from streamcache.commands.asking import FOUND, Server, add_server
from streamcache.commands.command import FAILURE, OK, Command
from streamcache.commands.targets import selection
from streamcache.daemon.announce import say

_WIDTH: Final = 60  # characters of the picture of a copy

_ABOUT: Final = """\
Show one file: whether it is in the cache and since when, how often it was asked for, the copy of it
that is under way (which of its blocks are there, and where its readers are), and what the source
said of it last."""

_MORE: Final = f"""\
{FOUND}

    streamcache show /a/b.mp4

In the picture of a copy # is there, + in part, - is not, and > is where somebody reads. A copy that
is "detached" becomes no object (the file changed, was purged or cannot be read, or there is no
room): it serves its last readers and ends with them. "unfinished" is what is left of a copy.
Exit codes: 0 the server knows it, 1 it knows nothing of it, or that there is no such file, 2 an
argument is wrong."""


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("path", metavar="PATH", help="as in a URL: /a/b.mp4")
    add_server(parser)


def run(arguments: argparse.Namespace) -> int:
    """Ask and print."""
    asked = selection(arguments.path, exact=True)
    answer = Server.of(arguments).get("/api/entry", asked)
    found = answer.value
    there = found["entries"] or found["partials"] or found["sessions"]
    known = there or found["pinned"] or _exists(found["knowledge"])
    say(answer.text if arguments.json else _shown(found))
    return OK if known else FAILURE


def _exists(knowledge: dict[str, Any]) -> bool:
    """Whether the source has said to a worker that it has the file."""
    return any(each is not None and each["version"] for each in knowledge.values())


def _shown(found: dict[str, Any]) -> str:
    entries, sessions = found["entries"], found["sessions"]
    parts = [output.coloured(output.path(found["path"]), output.BOLD)]
    partials = found["partials"]
    if not entries and not partials and not sessions:
        parts.append("not in the cache" + (", pinned" if found["pinned"] else ""))
    for entry in entries:
        # That is on_disk, which a server of 0.2.0 does not say.
        disk = output.size(entry["blocks"]) + " on disk" + (", pinned" if entry["pinned"] else "")
        rows = [
            ("cached", f"{output.size(entry['size'])}, {disk}"),
            ("version", entry["version"]),
            ("since", output.ago(entry["created"])),
            ("used", f"{output.plural(entry['hits'], 'time')}, last {output.ago(entry['used'])}"),
        ]
        parts.append(output.pairs(rows))
    for partial in partials:
        rows = [
            (
                "unfinished",
                f"{_part(partial)}, and nobody copies it now; the next copy goes on there",
            ),
            ("version", partial["version"]),
        ]
        if found["pinned"]:
            rows.append(("pinned", "its next copy is kept"))
        parts.append(output.pairs(rows))
    parts += [copy(session) for session in sessions]
    for worker, each in found["knowledge"].items():
        if each is not None:
            parts.append(output.pairs([("source", f"{_said(each)} ({worker})")]))
    return "\n".join(parts)


def copy(session: dict[str, Any]) -> str:
    """A copy that is under way."""
    size, readers = session["size"], session["readers"]
    rows = [
        ("copy", f"{session['state']} in {session['worker']}: {_part(session)}"),
        ("version", session["version"]),
        ("readers", output.plural(len(readers), "reader")),
    ]
    if session["rate"]:
        rows.append(("rate", output.rate(session["rate"])))
    offsets = [reader["offset"] for reader in readers]
    return f"{output.pairs(rows)}\n{picture(session['blocks'], size, offsets, _WIDTH)}"


def _part(copied: dict[str, Any]) -> str:
    """How much of a file is there."""
    present, size = copied["present"], copied["size"]
    return f"{output.size(present)} of {output.size(size)} ({output.share(present, size)})"


def picture(blocks: list[list[int]], size: int, readers: list[int], width: int) -> str:
    """A file as ``width`` characters, from runs of [present, count] blocks of equal length."""
    total = sum(count for _, count in blocks) or 1
    there = [0.0] * width
    at = 0
    for present, count in blocks:
        if present:
            for cell in range(at * width // total, min(width, -(-(at + count) * width // total))):
                # The part of the cell that this run covers.
                left = max(at / total, cell / width)
                right = min((at + count) / total, (cell + 1) / width)
                there[cell] += max(0.0, right - left) * width
        at += count
    letters = ["#" if part > 0.999 else "+" if part > 0.001 else "-" for part in there]
    for offset in readers:
        letters[min(width - 1, offset * width // max(1, size))] = ">"
    return "[" + "".join(letters) + "]"


def _said(known: dict[str, Any]) -> str:
    version, fresh, failing = (known[name] for name in ("version", "fresh_for", "failing_for"))
    text = f"has version {version}" if version else "has no such file"
    text += f"; good for {output.duration(fresh)}" if fresh else "; asked before the next use"
    return text + (f"; could not be asked for {output.duration(failing)}" if failing else "")


COMMAND: Final = Command("show", "show all that is known of one file", _ABOUT, _MORE, add, run)
