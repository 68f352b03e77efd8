"""``python -m tests.daemon.apart serve ...``: the real daemon, each worker with a cache of its own.

So that what is about processes can be tested without what is about sharing a directory. APART in
the environment, a word or several:
``die-N``   worker N ends with code 3 when it starts, but the first time
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from streamcache.cache.streamcache import StreamCache
from streamcache.cli import main
from streamcache.config import Config, changed
from streamcache.daemon.parts import Parts, real_parts
from tests.daemon.fakes import hasten, worker

WORDS = os.environ.get("APART", "").split()


def make_cache(config: Config) -> StreamCache:
    name = worker()
    above = Path(config.cache.dir)
    above.mkdir(exist_ok=True)
    if f"die-{name[1:]}" in WORDS:
        first = above / f"{name}.lived"
        if first.exists():
            os._exit(3)
        first.touch()
    return StreamCache(config=changed(config, "cache", dir=os.fspath(above / name)))


if __name__ == "__main__":
    hasten()
    sys.exit(main(parts=Parts(make_cache, real_parts().server)))
