"""What a hostile review of the shared cache once broke: each test is one promise."""

from __future__ import annotations

from pathlib import Path

import gevent

from streamcache import CacheStatus
from streamcache.cache.stored import ObjectFolder
from tests.content import write
from tests.system.conftest import OpenCache
from tests.system.site import MiB, assert_right, eventually, fetch, settle
from tests.system.test_review import holding


def test_who_is_cut_off_while_the_cache_is_looked_at_leaves_the_key_free(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    """A client that resets at that moment made its file uncacheable for all processes."""
    write(source, "film", MiB)
    cache = open_cache(source)
    with holding(ObjectFolder, "versions") as held:
        reader = gevent.spawn(fetch, cache, "film")
        eventually(lambda: held.calls)
        reader.kill()
    assert not cache._parts.keys._held
    answer = fetch(cache, "film")
    assert answer.status is CacheStatus.MISS
    assert_right(answer, "film", MiB)
    settle(cache, cache_dir)
