"""A program that has patched everything and embeds the cache: tests only.

    python -m tests.system.embedded SOURCE CACHE_DIR NAME SIZE

Prints how a first and a second client were served, both verified, through its own use of patched
modules, and that its worker threads are real ones.
"""

from __future__ import annotations

import sys

from gevent import monkey


def main() -> None:
    """Imports come after the patching, as they do in such a program."""
    monkey.patch_all()

    import threading
    import urllib.request
    from pathlib import Path

    from streamcache import StreamCache, StreamCacheServer
    from tests.content import verify

    source, cache_dir, name, size = sys.argv[1:]
    with StreamCache(Path(source), cache_dir, "1GB") as cache:
        server = StreamCacheServer(("127.0.0.1", 0), cache)
        server.start()
        results: list[tuple[bytes, str]] = []

        def client() -> None:
            with urllib.request.urlopen(f"{server.url}{name}", timeout=20) as answer:
                results.append((answer.read(), answer.headers["Cache-Status"]))

        crowd = [threading.Thread(target=client) for _ in range(5)]  # greenlets here
        for each in crowd:
            each.start()
        for each in crowd:
            each.join()
        while cache.statistics().sessions:
            threading.Event().wait(0.01)
        client()
        for data, _ in results:
            assert len(data) == int(size)
            assert verify(name, 0, data) is None
        with cache.open(f"/{name}") as file:
            file.seek(-10, 2)
            assert verify(name, int(size) - 10, file.read()) is None
        print("; ".join(sorted({status for _, status in results})), flush=True)
        server.stop(timeout=5)


if __name__ == "__main__":
    main()
