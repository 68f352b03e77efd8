"""``python -m tests.bench.origin ROOT PORT LATENCY BANDWIDTH``: a slow HTTP origin.

As slow as the slow mount: each answer begins LATENCY seconds after its request, and all bodies
together pass at BANDWIDTH bytes per second. It is a client's best case: a look-up and an open cost
nothing extra here. ``GET /.sent`` tells how many bytes of bodies were sent.
"""

from __future__ import annotations

import asyncio
import email.utils
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.slowfs.model import Pipe
from tests.slowfs.mounting import exact_timers

PIECE = 64 * 1024


@dataclass
class Origin:
    """What all connections share."""

    root: Path
    latency: float
    bandwidth: float
    pipe: Pipe = field(default_factory=Pipe)
    sent: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        # Else what nobody wants any more is counted as sent.
        writer.transport.set_write_buffer_limits(high=PIECE)
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                await self._answer(head.decode("latin-1"), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, head: str, writer: asyncio.StreamWriter) -> None:
        method, target, _ = head.split(" ", 2)
        if target == "/.sent":
            body = str(self.sent).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            writer.close()
            return
        await asyncio.sleep(self.latency)
        try:
            fd = os.open(self.root / target.lstrip("/"), os.O_RDONLY)
        except OSError:
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return
        try:
            start, stop = self._head(head, os.fstat(fd), writer)
            while method == "GET" and start < stop:
                piece = os.pread(fd, min(PIECE, stop - start), start)
                loop = asyncio.get_running_loop()
                passed = self.pipe.book(loop.time(), len(piece), self.bandwidth)
                await asyncio.sleep(passed - loop.time())
                writer.write(piece)
                self.sent += len(piece)
                start += len(piece)
                await writer.drain()
        finally:
            os.close(fd)

    def _head(
        self, head: str, status: os.stat_result, writer: asyncio.StreamWriter
    ) -> tuple[int, int]:
        size = status.st_size
        wanted = re.search(r"(?im)^range: *bytes=(\d+)-(\d*)", head)
        start, stop = 0, size
        if wanted:
            start = int(wanted[1])
            stop = min(size, int(wanted[2]) + 1) if wanted[2] else size
        lines = [
            "HTTP/1.1 206 Partial Content" if wanted else "HTTP/1.1 200 OK",
            f"Content-Length: {stop - start}",
            "Accept-Ranges: bytes",
            f'ETag: "{size:x}-{status.st_mtime_ns:x}"',
            f"Last-Modified: {email.utils.formatdate(status.st_mtime, usegmt=True)}",
        ]
        if wanted:
            lines.append(f"Content-Range: bytes {start}-{stop - 1}/{size}")
        writer.write("\r\n".join([*lines, "", ""]).encode())
        return start, stop


async def main() -> None:
    """Serve until the end of the process."""
    root, port, latency, bandwidth = sys.argv[1:]
    origin = Origin(Path(root), float(latency), float(bandwidth))
    server = await asyncio.start_server(origin.serve, "127.0.0.1", int(port), backlog=4096)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    exact_timers()
    asyncio.run(main())
