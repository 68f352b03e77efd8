"""The measuring client: a thread and a raw socket per request, every byte compared.

Receiving and comparing (memcmp on the expected bytes, no copy) run without the interpreter lock,
so that fifty clients at 20 MiB/s each measure the server and not themselves.
"""

from __future__ import annotations

import contextlib
import ctypes
import random
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.content import content

PIECE = 512 * 1024
TIMEOUT = 60.0  # s without a byte

_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


class Expected:
    """The whole of a content, in memory."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = size
        self.data = content(name, 0, size)
        self._address = ctypes.cast(self.data, ctypes.c_void_p).value or 0

    def agrees(self, buffer: ctypes.Array, length: int, offset: int) -> bool:
        """Whether ``length`` bytes of ``buffer`` are those at ``offset``."""
        if offset + length > self.size:
            return False
        return _memcmp(ctypes.addressof(buffer), self._address + offset, length) == 0


@dataclass(slots=True)
class Answer:
    """What came, and when: seconds after the request was sent."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    received: int = 0  # right bytes of the body
    first_byte: float = 0.0
    done: float = 0.0
    error: str = ""  # the first thing that was wrong

    def require(self) -> Answer:
        """Itself, when all was right; RuntimeError otherwise."""
        if self.error:
            raise RuntimeError(self.error)
        return self

    @property
    def cache_status(self) -> str:
        """Cache-Status (RFC 9211)."""
        return self.headers.get("cache-status", "")


class Get(threading.Thread):
    """One GET in a thread of its own."""

    def __init__(
        self,
        address: tuple[str, int],
        path: str,
        expected: Expected,
        start: int = 0,
        stop: int | None = None,
        *,
        leave_at: int | None = None,
        check_later: bool = False,
    ) -> None:
        """Bytes [start, stop), until ``leave_at`` of them have come, when given.

        ``check_later`` keeps them and compares at the end, where the rate is what is measured.
        """
        super().__init__(name=f"GET {path} {start}", daemon=True)
        self.answer = Answer()
        self._address = address
        self._path = path
        self._expected = expected
        self._from = start
        self._to = expected.size if stop is None else stop
        self._ranged = start > 0 or stop is not None
        self._leave_at = leave_at
        self._later = check_later
        self._marks: list[tuple[int, threading.Event]] = []
        self._lock = threading.Lock()

    def mark(self, received: int) -> threading.Event:
        """An event that is set when so many bytes have come (or none will any more)."""
        event = threading.Event()
        with self._lock:
            self._marks.append((received, event))
        return event

    def result(self) -> Answer:
        """Wait for the end."""
        self.join()
        return self.answer

    def run(self) -> None:
        """The request, in its thread."""
        try:
            with socket.create_connection(self._address, timeout=TIMEOUT) as peer:
                self._exchange(peer)
        except OSError as error:
            self._wrong(f"{error!r} at {self._from + self.answer.received}")
        finally:
            for _received, event in self._marks:
                event.set()

    def _exchange(self, peer: socket.socket) -> None:
        length = self._to - self._from
        want = length if self._leave_at is None else min(length, self._leave_at)
        # Touched in advance: fresh memory would be counted as time of the server.
        buffer = ctypes.create_string_buffer(b"", want if self._later else PIECE)
        view = memoryview(buffer).cast("B")
        ctypes.memset(buffer, 1, len(view))
        fields = f"Host: bench\r\nRange: bytes={self._from}-{self._to - 1}\r\n"
        if not self._ranged:
            fields = "Host: bench\r\n"
        began = time.monotonic()
        peer.sendall(f"GET /{self._path} HTTP/1.1\r\n{fields}\r\n".encode())
        body = self._head(peer, length)
        if self.answer.error:
            return
        view[: len(body)] = body
        count = len(body) or peer.recv_into(view)
        self.answer.first_byte = time.monotonic() - began
        while count:
            offset = self._from + self.answer.received
            if not self._later and not self._expected.agrees(buffer, count, offset):
                self._wrong(f"a wrong byte in [{offset}, {offset + count})")
                return
            self.answer.received += count
            self._tell()
            if self.answer.received >= want:
                break
            at = self.answer.received if self._later else 0
            count = peer.recv_into(view[at:])
        self.answer.done = time.monotonic() - began
        if self.answer.received < want:
            self._wrong(f"cut short at {self._from + self.answer.received}")
        elif self._later and not self._expected.agrees(buffer, want, self._from):
            self._wrong(f"a wrong byte in [{self._from}, {self._from + want})")

    def _head(self, peer: socket.socket, length: int) -> bytes:
        """Receive and check the head; the bytes of the body that came with it."""
        data = b""
        while b"\r\n\r\n" not in data:
            piece = peer.recv(65536)
            if not piece:
                self._wrong("hung up before the head")
                return b""
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        self.answer.status = int(first.split()[1])
        for line in lines:
            name, _, value = line.partition(":")
            self.answer.headers[name.lower()] = value.strip()
        if self.answer.status != (206 if self._ranged else 200):
            self._wrong(f"status {self.answer.status}")
        elif self.answer.headers.get("content-length") != str(length):
            self._wrong(f"Content-Length is {self.answer.headers.get('content-length')}")
        return body

    def _tell(self) -> None:
        with self._lock:
            for received, event in self._marks:
                if self.answer.received >= received:
                    event.set()

    def _wrong(self, what: str) -> None:
        self.answer.error = self.answer.error or f"{self._path}: {what}"


def get(
    address: tuple[str, int],
    path: str,
    expected: Expected,
    start: int = 0,
    stop: int | None = None,
    **options: bool,
) -> Answer:
    """One GET, here and now."""
    request = Get(address, path, expected, start, stop, **options)
    request.run()
    return request.answer


@contextlib.contextmanager
def checking(
    address: tuple[str, int], path: str, expected: Expected, length: int, *, pause: float = 0.05
) -> Iterator[None]:
    """While others load a server, compare what it answers: now and then ``length`` bytes.

    At the end RuntimeError, if one answer was wrong, or if there was none.
    """
    wrong: list[str] = []
    right = 0
    ended = threading.Event()

    def check() -> None:
        nonlocal right
        while not ended.is_set() and not wrong:
            if length == expected.size:
                answer = get(address, path, expected)
            else:
                start = random.randrange(expected.size - length + 1)
                answer = get(address, path, expected, start, start + length)
            if answer.error:
                wrong.append(answer.error)
            right += 1
            ended.wait(pause)

    thread = threading.Thread(target=check, name=f"checking {path}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if wrong or not right:
        raise RuntimeError(f"while under load: {wrong[0] if wrong else 'no answer'}")
