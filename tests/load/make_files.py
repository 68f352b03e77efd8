"""``python -m tests.load.make_files DIR``: fill a directory with titles for the load test.

The bytes of each file follow from its name, so the load test verifies all it receives without
having the files. Serve DIR with streamcache, then run the locustfile against it.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from tests.content import SETTLED, write
from tests.load.titles import INDEX, Title, dumps

MiB = 1024 * 1024


def make(root: Path, *, films: int, premieres: int, size: int) -> list[Title]:
    """Write the files that are not there yet, and the index of all; the titles."""
    titles = [
        # Sizes that are no multiple of anything: the last block of each is cut.
        Title(f"films/film-{number:03}.mp4", size + 1009 * number + 1)
        for number in range(films)
    ] + [
        Title(f"premieres/premiere-{number:03}.mkv", 2 * size + 4099 * number + 1, premiere=True)
        for number in range(premieres)
    ]
    root.mkdir(parents=True, exist_ok=True)
    for title in titles:
        path = root / title.name
        if not path.exists() or path.stat().st_size != title.size:
            write(root, title.name, title.size)
    index = root / INDEX
    index.write_text(dumps(titles))
    changed = time.time() - SETTLED
    os.utime(index, (changed, changed))
    return titles


def main() -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.make_files", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--films", type=int, default=24, help="titles; default %(default)s")
    parser.add_argument(
        "--premieres", type=int, default=12, help="titles for the crowd; default %(default)s"
    )
    parser.add_argument(
        "--size",
        type=int,
        default=32,
        help="MiB of a film; a premiere has twice that; default %(default)s",
    )
    args = parser.parse_args()
    titles = make(args.directory, films=args.films, premieres=args.premieres, size=args.size * MiB)
    total = sum(title.size for title in titles)
    print(f"{len(titles)} titles, {total / MiB:.0f} MiB, in {args.directory}")


if __name__ == "__main__":
    main()
