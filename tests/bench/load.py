"""``python -m tests.bench.load KIND HOST PORT NAME SIZE``: load from a process of its own.

Each kind prints ``started`` when what it measures begins, and one JSON object at the end. The
content at NAME is ``tests.content`` of that name. Of bulk, 64 KiB at the beginning of each 4 MiB
are compared; the rest is thrown away by the kernel (MSG_TRUNC), so that this process is not what
is measured. A wrong byte, status or length ends it with an error.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import socket
import statistics
import sys
import time
from array import array

from tests.content import content

SAMPLE = 64 * 1024  # bytes compared ...
EACH = 4 * 1024 * 1024  # ... at the beginning of so many
PIECE = 1024 * 1024
WARM = 0.3  # s under load before it counts
TIMEOUT = 60.0  # s without a byte


class Wrong(Exception):
    """An answer was not as it should be."""


class Title:
    """What is asked for, and the samples of it that are compared."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = size
        self.request = f"GET /{name} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
        self._samples: dict[int, bytes] = {}

    def check(self, offset: int, data: memoryview) -> None:
        """Compare bytes that do not reach beyond the sample that ``offset`` is in."""
        begin = offset - offset % EACH
        sample = self._samples.get(begin)
        if sample is None:
            sample = content(self.name, begin, min(begin + SAMPLE, self.size))
            self._samples[begin] = sample
        inside = offset - begin
        if data != sample[inside : inside + len(data)]:
            raise Wrong(f"{self.name}: a wrong byte in [{offset}, {offset + len(data)})")

    def sampled(self, offset: int) -> int:
        """How many bytes from here on are compared; negative: how many are not."""
        inside = offset % EACH
        return SAMPLE - inside if inside < SAMPLE else inside - EACH


class Download:
    """One connection that asks for the title again and again. Non-blocking."""

    def __init__(self, address: tuple[str, int], title: Title, buffer: memoryview) -> None:
        self.peer = socket.create_connection(address, timeout=TIMEOUT)
        self.title = title
        self.received = 0  # bytes of bodies
        self.bodies = 0  # complete ones
        self._buffer = buffer
        self._head = b""
        self._offset = -1  # in the body; -1: the head is awaited
        self.ask()

    def ask(self) -> None:
        """Send the next request."""
        self.peer.sendall(self.title.request)

    def receive(self) -> None:
        """Take what has come, up to PIECE."""
        if self._offset < 0:
            self._receive_head()
            return
        length = self.title.sampled(self._offset)
        left = self.title.size - self._offset
        if length > 0:
            view = self._buffer[: min(length, left)]
            count = self.peer.recv_into(view)
            self.title.check(self._offset, view[:count])
        else:
            view = self._buffer[: min(-length, left, PIECE)]
            count = self.peer.recv_into(view, 0, socket.MSG_TRUNC)
        self._count(count)

    def _receive_head(self) -> None:
        data = self.peer.recv(4096)
        self._head += data
        if not data:
            raise Wrong(f"{self.title.name}: hung up before the head")
        head, end, body = self._head.partition(b"\r\n\r\n")
        if not end:
            return
        require_head(head, 200, self.title.size)
        self._head, self._offset = b"", 0
        self.title.check(0, memoryview(body))
        if body:
            self._count(len(body))

    def _count(self, count: int) -> None:
        if not count:
            raise Wrong(f"{self.title.name}: cut short at {self._offset}")
        self._offset += count
        self.received += count
        if self._offset == self.title.size:
            self._offset = -1
            self.bodies += 1


def require_head(head: bytes, status: int, length: int) -> None:
    """Raise Wrong unless the answer has this status and Content-Length."""
    if head.split(b" ", 2)[1] != str(status).encode():
        raise Wrong(f"status {head.splitlines()[0]!r}")
    if f"content-length: {length}".encode() not in head.lower():
        raise Wrong(f"no Content-Length {length} in {head!r}")


def bulk(args: argparse.Namespace) -> dict[str, object]:
    """Whole bodies over some connections, one after the other, for so many seconds.

    With 0 seconds each connection gets one body.
    """
    buffer = memoryview(bytearray(PIECE))
    title = Title(args.name, args.size)
    began = time.monotonic()
    downloads = [Download(args.address, title, buffer) for _ in range(args.connections)]
    poll = select.epoll()
    by_fd = {}
    for download in downloads:
        download.peer.setblocking(False)
        by_fd[download.peer.fileno()] = download
        poll.register(download.peer, select.EPOLLIN)
    started, first, before, cpu = 0.0, 0.0, 0, time.process_time()
    if not args.seconds:
        started = began
        say_started()
    while by_fd:
        for fd, _events in poll.poll(TIMEOUT):
            download = by_fd[fd]
            bodies = download.bodies
            with contextlib.suppress(BlockingIOError):
                download.receive()
            first = first or time.monotonic() - began
            if download.bodies > bodies:
                if args.seconds:
                    download.ask()
                else:
                    poll.unregister(fd)
                    del by_fd[fd]
        now = time.monotonic()
        if not started:
            if now > began + WARM and (
                all(each.received for each in downloads) or now > began + 10 * WARM
            ):
                started, before = now, sum(each.received for each in downloads)
                cpu = time.process_time()
                say_started()
        elif args.seconds and now > started + args.seconds:
            break
    received = sum(each.received for each in downloads) - before
    seconds = time.monotonic() - started
    return {
        "bytes": received,
        "seconds": seconds,
        "busy": (time.process_time() - cpu) / seconds,
        "first_byte": first,
        "least": min(each.received for each in downloads),
    }


def probe(args: argparse.Namespace) -> dict[str, object]:
    """One small request after the other, until SIGTERM: how long does the longest take?"""
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    with contextlib.suppress(OSError):  # where allowed, never wait for a core behind other load
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    title = Title(args.name, args.size)
    peer = socket.create_connection(args.address, timeout=TIMEOUT)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    times = array("d")
    for _ in range(100):
        _small(peer, title)
    say_started()
    while not ended:
        began = time.perf_counter()
        _small(peer, title)
        times.append(time.perf_counter() - began)
        if args.pause:
            time.sleep(args.pause)
    ordered = sorted(times)
    return {
        "count": len(times),
        "median": statistics.median(ordered),
        "p99": ordered[len(ordered) * 99 // 100],
        "longest": ordered[-1],
    }


def _small(peer: socket.socket, title: Title) -> None:
    peer.sendall(title.request)
    data = b""
    while True:
        piece = peer.recv(65536)
        if not piece:
            raise Wrong(f"{title.name}: hung up")
        data += piece
        head, end, body = data.partition(b"\r\n\r\n")
        if end and len(body) >= title.size:
            break
    require_head(head, 200, title.size)
    title.check(0, memoryview(body))


def idle(args: argparse.Namespace) -> dict[str, object]:
    """Connections that have had one answer each and are kept open until SIGTERM."""
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    title = Title(args.name, args.size)
    peers = []
    for _ in range(args.connections):
        peers.append(socket.create_connection(args.address, timeout=TIMEOUT))
        _small(peers[-1], title)
    say_started()
    while not ended:
        time.sleep(0.05)
    for peer in peers[:: max(1, len(peers) // 100)]:  # they are still good
        _small(peer, title)
    return {"connections": len(peers)}


def slow(args: argparse.Namespace) -> dict[str, object]:
    """Readers that take 50 KB/s each, from different places of one title; every byte compared."""
    rate, step = 50_000, 0.1
    take = round(rate * step)
    data = content(args.name, 0, args.size)
    buffer = memoryview(bytearray(take))
    offsets = {}
    for number in range(args.connections):
        peer = socket.socket()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        peer.settimeout(TIMEOUT)
        peer.connect(args.address)
        start = args.size // 2 * number // args.connections
        fields = f"GET /{args.name} HTTP/1.1\r\nHost: bench\r\nRange: bytes={start}-\r\n\r\n"
        peer.sendall(fields.encode())
        offsets[peer] = start
    for peer in offsets:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += peer.recv(1)
        require_head(head, 206, args.size - offsets[peer])
        peer.setblocking(False)
    say_started()
    began = time.monotonic()
    received, empty, rounds = 0, 0, 0
    while time.monotonic() < began + args.seconds:
        for peer, offset in offsets.items():
            try:
                count = peer.recv_into(buffer)
            except BlockingIOError:
                empty += 1
                continue
            if buffer[:count] != data[offset : offset + count] or not count:
                raise Wrong(f"{args.name}: wrong or cut short at {offset}")
            offsets[peer] = offset + count
            received += count
        rounds += 1
        time.sleep(max(0.0, began + rounds * step - time.monotonic()))
    seconds = time.monotonic() - began
    return {
        "seconds": seconds,
        "rate": received / seconds / args.connections,  # bytes/s each
        "empty": empty / max(1, rounds * args.connections),  # share of looks that found nothing
    }


def say_started() -> None:
    """What is measured begins now."""
    print("started", flush=True)


KINDS = {"bulk": bulk, "idle": idle, "probe": probe, "slow": slow}


def main() -> None:
    """Run one kind."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.load", description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("name")
    parser.add_argument("size", type=int)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--pause", type=float, default=0.0, help="s between requests of the probe")
    args = parser.parse_args()
    args.address = (args.host, args.port)
    try:
        print(json.dumps(KINDS[args.kind](args)), flush=True)
    except (Wrong, OSError) as error:
        sys.exit(f"{args.kind}: {error}")


if __name__ == "__main__":
    main()
