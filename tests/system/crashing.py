"""A process that serves a seeded load on a cache and is killed at its n-th step: tests only.

    python -m tests.system.crashing SOURCE CACHE_DIR SIZE SEED KILL_AT [MORE]

Prints "steps N" when it came to its end, which it does with KILL_AT 0. MORE is a JSON object:
"contents" says what files hold that hold another content than their names say, "cache" has options.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random
from typing import Any

import gevent

from streamcache import StreamCache
from tests.content import verify
from tests.system.site import at_rest, config, eventually, opened, take
from tests.system.steps import CALLS, DISK, SOURCE, Steps, killing

REQUESTS = 14


def read_some(cache: StreamCache, name: str, content: str, random: Random) -> None:
    """From somewhere to somewhere, as players do."""
    with opened(cache, name) as delegate:
        offset = random.choice((0, 0, random.randrange(delegate.size)))
        stop = random.choice((delegate.size, random.randint(offset + 1, delegate.size)))
        while offset < stop:
            data = take(delegate, offset, stop)
            assert verify(content, offset, data) is None
            offset += len(data)


def load(source: str, cache_dir: str, size: int, seed: int, more: dict[str, Any]) -> None:
    """Three clients, one after the other's request."""
    random = Random(seed)
    names = sorted(path.name for path in Path(source).iterdir())
    contents = more.get("contents", {})
    options = config(
        source={"revalidate": 0.0},
        copy={"when_idle": random.choice(("stop", "finish"))},
        cache=more.get("cache", {}),
    )
    with StreamCache(source, cache_dir, size, config=options) as cache:

        def client(seed: int) -> None:
            mine = Random(seed)
            for _ in range(REQUESTS // 3 + 1):
                name = mine.choice(names)
                read_some(cache, name, contents.get(name, name), mine)

        clients = [gevent.spawn(client, random.random()) for _ in range(3)]
        gevent.joinall(clients, raise_error=True)
        eventually(lambda: at_rest(cache))


def main() -> None:
    """See the module's text."""
    source, cache_dir, *numbers = sys.argv[1:6]
    size, seed, kill_at = map(int, numbers)
    more = json.loads(sys.argv[6]) if len(sys.argv) > 6 else {}
    with Steps(DISK | SOURCE, killing, at=kill_at, calls=CALLS).installed() as steps:
        load(source, cache_dir, size, seed, more)
    print("steps", len(steps.seen), flush=True)


if __name__ == "__main__":
    main()
