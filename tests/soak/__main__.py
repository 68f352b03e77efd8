"""bin/soak: what minutes and hundreds of kills do to a cache.

Three workers serve a slow file system (FUSE) to 24 viewers that play, seek, dawdle, leave and come
back, and check every byte against the version that the answer names; the cache is smaller than the
files, so it evicts all the time, and the files are replaced, made older, taken away and put back.
With --near the files are larger and lie on a local disk: who reads them also writes them then.

First --kills: SIGKILL at random moments, of a worker, of the supervisor (the next daemon may begin
while its orphans still end), of everything at once, and of a daemon that starts. After each, every
object must be whole and of one version, every block that a partial says it has must be right, and
after a restart the catalog must say what is on the disk.

Then --minutes of a storm: the source hangs, fails, is stale or slow (not with --near); workers are
killed and stopped (SIGSTOP). At the end everything must be served, and given back.

All the time: the limit of the cache; descriptors, threads and memory of the workers (/proc); and
from inside each worker for how long its hub was not free, less the time for which the machine gave
it no core.

What is wrong is said at once on stderr, the table comes at the end on stdout. The same seed makes
the same choices; the moments differ. Exit codes: 0 nothing found, 1 something, 2 wrong arguments.
"""

from __future__ import annotations

import argparse
import secrets
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import gevent

from tests.slowfs import unsupported
from tests.soak.soak import Soak
from tests.soak.source import Source, near, slow


def main() -> int:
    about, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="bin/soak",
        description=about,
        epilog=more,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--minutes", type=float, default=5.0, metavar="N", help="of storm: %(default)s"
    )
    parser.add_argument("--kills", type=int, default=50, metavar="N", help="before it: %(default)s")
    parser.add_argument(
        "--seed", type=int, metavar="S", help="a new one each time, which is printed"
    )
    parser.add_argument("--near", action="store_true", help="a source that is nearly in memory")
    arguments = parser.parse_args()
    if arguments.minutes < 0 or arguments.kills < 0:
        parser.error("--minutes and --kills: 0 or more")
    if not arguments.near and (reason := unsupported()) is not None:
        print(f"bin/soak: {reason}", file=sys.stderr)
        return 2
    seed = secrets.randbits(32) if arguments.seed is None else arguments.seed
    print(
        f"bin/soak --minutes {arguments.minutes:g} --kills {arguments.kills} --seed {seed}"
        f"{' --near' if arguments.near else ''}\n",
        flush=True,
    )
    for number in (signal.SIGTERM, signal.SIGINT):  # whatever ends it, no daemon stays behind
        gevent.signal_handler(number, gevent.kill, gevent.getcurrent(), SystemExit(128 + number))
    source = near if arguments.near else slow
    return int(not run(seed, source, kills=arguments.kills, seconds=60 * arguments.minutes))


def run(
    seed: int,
    source: Callable[[], AbstractContextManager[Source]],
    *,
    kills: int,
    seconds: float,
) -> bool:
    """A soak and its table; whether nothing was found."""
    begun = time.monotonic()
    with Soak.begun(seed, source) as soak:
        soak.kill(kills)
        if seconds:
            soak.storm(seconds)
        soak.finish()
        print(soak.table(time.monotonic() - begun), flush=True)
        return not soak.findings


if __name__ == "__main__":
    sys.exit(main())
