"""Globs of paths: ``*``, ``?`` and ``[...]`` within a name, ``**`` for any number of names.

PURE.
"""

from __future__ import annotations

import re
from typing import Final

_MOST_DEEP: Final = 8  # names that are "**": each may be tried at every depth


def compile_glob(glob: str) -> re.Pattern[str]:
    """What fits a path as a whole. Both are without the first slash.

    ValueError: a bracket is not closed or has no letters, or there are too many ``**``.
    """
    return re.compile(_translated(glob), re.DOTALL)


def _translated(glob: str) -> str:
    """A regular expression."""
    pieces: list[str] = []
    names = glob.split("/")
    if names.count("**") > _MOST_DEEP:
        raise ValueError(f"glob {'/' + glob!r}: at most {_MOST_DEEP} times **")
    for number, name in enumerate(names):
        last = number == len(names) - 1
        if name == "**":
            pieces.append(".+" if last else "(?:[^/]+/)*")
        else:
            pieces.append(_translated_name(name, glob) + ("" if last else "/"))
    return "".join(pieces)


def _translated_name(name: str, glob: str) -> str:
    parts, at = [""], 0
    while at < len(name):
        letter = name[at]
        at += 1
        if letter == "*":
            parts.append("")
        elif letter == "?":
            parts[-1] += "[^/]"
        elif letter == "[":
            end = name.find("]", at + 2 if name[at : at + 1] == "!" else at + 1)
            if end < 0:
                raise ValueError(
                    f"glob {'/' + glob!r}: a [ is not closed; for a [ itself write [[]"
                )
            parts[-1] += _translated_set(name[at:end], glob)
            at = end + 1
        else:
            parts[-1] += re.escape(letter)
    if len(parts) == 1:
        return parts[0]
    # The first place where what follows a star fits is as good as any later one, so nothing is
    # tried again there (as in fnmatch): many stars would take for ever.
    middle = "".join(f"(?>[^/]*?{part})" for part in parts[1:-1] if part)
    return f"{parts[0]}{middle}[^/]*{parts[-1]}"


def _translated_set(letters: str, glob: str) -> str:
    """The inside of a [...]: letters and ranges; ! at the start: any other."""
    no, chosen = ("^", letters[1:]) if letters.startswith("!") else ("", letters)
    pieces, at = [], 0
    while at < len(chosen):
        if at + 2 < len(chosen) and chosen[at + 1] == "-":
            first, last = chosen[at], chosen[at + 2]
            if first > last:
                raise ValueError(f"glob {'/' + glob!r}: [{first}-{last}] has no letters")
            pieces.append(f"{re.escape(first)}-{re.escape(last)}")
            at += 3
        else:
            pieces.append(re.escape(chosen[at]))
            at += 1
    return f"(?!/)[{no}{''.join(pieces)}]"
