"""The process that serves the slow file system: one loop, timers, no threads.

An operation that has to wait is an entry in a heap (or in the list of those that hang), so any
number of them wait in parallel and none of them is late because of another. Nothing here ever
touches the mount itself: the loop would wait for its own answer.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import heapq
import json
import os
import select
import signal
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field

from . import mounting, protocol
from .model import KINDS, OPERATIONS, Counts, Fault, Pipe, Speed
from .protocol import Request

MAX_BACKGROUND = 512  # reads the kernel keeps in flight; its default, 12, would be a limit here
KILL_POLL = 0.02  # s between looks whether a thread that waits was killed


@dataclass(slots=True)
class Node:
    """A file or directory the kernel knows; the descriptor pins the inode and its number."""

    id: int
    fd: int  # O_PATH
    path: str
    identity: tuple[int, int]
    lookups: int = 0
    content: tuple[int, int, int] | None = None  # (mtime, size, cache epoch) at the last open


@dataclass(slots=True)
class Handle:
    """One open: a descriptor of its own, so it outlives a rename over the file."""

    id: int
    fd: int
    node: Node
    path: str
    entries: list[tuple[int, int, str]] = field(default_factory=list)  # of a directory


@dataclass(slots=True)
class Job:
    """An operation under way."""

    request: Request
    operation: str
    path: str
    handle: Handle | None
    limit: int | None = None  # truncation: the size that the file seems to have
    error: int = 0
    hang: Fault | None = None
    data: bytes | None = None  # of a read, once it was taken from the backing file
    resume: Callable[[Job, float], None] | None = None


class Server:
    """A pass-through of ``backing`` on ``mountpoint``, slow and faulty as told."""

    def __init__(
        self, backing: str, mountpoint: str, control: str, *, speed: Speed, writable: bool
    ) -> None:
        self.speed = speed
        self.writable = writable
        self.mountpoint = mountpoint
        self._pipe = Pipe()
        self._total = Counts()
        self._files: dict[str, Counts] = collections.defaultdict(Counts)
        self._faults: list[Fault] = []
        self._fault_number = 0
        self._epoch = 0  # raised to make the next open of each file start without pages
        root = os.open(backing, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._nodes = {protocol.ROOT: Node(protocol.ROOT, root, "", _identity(os.fstat(root)), 1)}
        self._by_identity = {self._nodes[protocol.ROOT].identity: protocol.ROOT}
        self._node_number = protocol.ROOT
        self._handles: dict[int, Handle] = {}
        self._handle_number = 0
        self._timers: list[tuple[float, int, Callable[[Job, float], None], Job]] = []
        self._timer_number = 0
        self._jobs: dict[int, Job] = {}  # by the kernel's number; a job not in here is over
        self._hanging: list[Job] = []
        self._interrupted: set[int] = set()
        self._unread: collections.deque[Job] = collections.deque()
        self._running = True
        self._poll = select.epoll()
        self._sockets: dict[int, Callable[[], None]] = {}
        self._listen(control)
        self._fuse = mounting.mount(mountpoint, writable=writable)
        os.set_blocking(self._fuse, False)
        self._watch(self._fuse, self._take_requests)

    # The loop

    def watch_parent(self) -> None:
        """Stop when standard input ends: whoever holds its other end is gone."""
        self._watch(0, self.stop)

    def serve(self) -> None:
        """Answer requests until the file system is unmounted or ``stop`` was called."""
        while self._running:
            # select on the epoll descriptor: epoll's own timeout is in whole milliseconds.
            ready, _, _ = select.select([self._poll], [], [], self._wait())
            if ready:
                for fd, _events in self._poll.poll(0):
                    if fd in self._sockets:
                        self._sockets[fd]()
            self._fire()
            self._take_data()
            self._look_for_killed()

    def stop(self) -> None:
        """Make ``serve`` return."""
        self._running = False

    def close(self) -> None:
        """Unmount; operations that wait fail in their callers."""
        mounting.unmount(self.mountpoint)
        with contextlib.suppress(OSError):
            os.close(self._fuse)  # the last reference ends the connection

    def _wait(self) -> float | None:
        if self._unread:
            return 0.0
        wait = KILL_POLL if self._interrupted else None
        if self._timers:
            due = max(0.0, self._timers[0][0] - time.monotonic())
            wait = due if wait is None else min(wait, due)
        return wait

    def _fire(self) -> None:
        while self._timers and self._timers[0][0] <= time.monotonic():
            due, _number, action, job = heapq.heappop(self._timers)
            if self._jobs.get(job.request.unique) is job:
                action(job, due)

    def _at(self, due: float, action: Callable[[Job, float], None], job: Job) -> None:
        self._timer_number += 1
        heapq.heappush(self._timers, (due, self._timer_number, action, job))

    def _watch(self, fd: int, action: Callable[[], None]) -> None:
        self._sockets[fd] = action
        self._poll.register(fd, select.EPOLLIN)

    # Requests of the kernel

    def _take_requests(self) -> None:
        while self._running:
            try:
                data = os.read(self._fuse, protocol.REQUEST_SIZE)
            except OSError as error:
                if error.errno == errno.ENODEV:  # unmounted
                    self.stop()
                elif error.errno in (errno.ENOENT, errno.EINTR):  # it was taken back
                    continue
                return
            self._arrive(Request.parse(data), time.monotonic())

    def _arrive(self, request: Request, now: float) -> None:
        operation = protocol.NAMES.get(request.opcode)
        if operation is None:
            self._at_once(request)
            return
        job = Job(request, operation, *self._subject(request, operation))
        self._jobs[request.unique] = job
        for counts in self._counts(job.path):
            counts.arrived(operation)
        read = operation == "read"
        latency = self.speed.latency if read else self.speed.meta_latency
        job.resume = self._transfer if read else self._perform
        latency += self._apply_faults(job)
        if job.hang is not None:
            self._hanging.append(job)
            return
        if read and not job.error:
            self._unread.append(job)
        self._at(now + latency, self._fail if job.error else job.resume, job)

    def _subject(self, request: Request, operation: str) -> tuple[str, Handle | None]:
        """Path and handle that an operation is about."""
        node = self._nodes[request.node]
        if operation == "lookup":
            return _join(node.path, request.name()), None
        number = None
        if operation in ("read", "readdir", "write", "fsync"):
            number = request.number(wide=True)
        elif operation in ("create", "mkdir"):
            return _join(node.path, request.names(16 if operation == "create" else 8)[0]), None
        elif operation in ("unlink", "rmdir", "symlink"):
            return _join(node.path, request.names(0)[0]), None
        elif operation == "rename":
            return _join(node.path, request.names(_rename_head(request))[0]), None
        elif operation == "getattr":
            number = request.getattr_handle()
        handle = self._handles.get(number) if number is not None else None
        return (handle.path if handle else node.path), handle

    def _counts(self, path: str) -> tuple[Counts, Counts]:
        return self._total, self._files[path]

    def _at_once(self, request: Request) -> None:
        """Operations that take no time: bookkeeping of the kernel."""
        match request.opcode:
            case protocol.INIT:
                self._init(request)
            case protocol.FORGET | protocol.BATCH_FORGET:
                for number, lookups in request.forgotten():
                    self._forget(number, lookups)
            case protocol.RELEASE | protocol.RELEASEDIR:
                handle = self._handles.pop(request.handle(), None)
                if handle is not None:
                    os.close(handle.fd)
                self._answer(request, b"")
            case protocol.STATFS:
                root = self._nodes[protocol.ROOT].fd
                self._answer(request, protocol.statfs_reply(os.fstatvfs(root)))
            case protocol.INTERRUPT:
                self._interrupted.add(request.interrupted())
            case protocol.DESTROY:
                self._answer(request, b"")
            case _:  # ACCESS, FLUSH, xattrs, locks ...: the kernel then does without
                self._answer(request, errno.ENOSYS)

    def _init(self, request: Request) -> None:
        _major, _minor, read_ahead, flags = request.init()
        reply = protocol.init_reply(
            max_readahead=max(read_ahead, mounting.MAX_READ),
            flags=flags & protocol.WANTED,
            max_background=MAX_BACKGROUND,
            max_pages=mounting.MAX_READ // 4096,
        )
        self._answer(request, reply)

    def _forget(self, number: int, lookups: int) -> None:
        node = self._nodes.get(number)
        if node is None or number == protocol.ROOT:
            return
        node.lookups -= lookups
        if node.lookups <= 0:
            del self._nodes[number], self._by_identity[node.identity]
            os.close(node.fd)

    # Faults

    def _apply_faults(self, job: Job) -> float:
        """Mark the job with what befalls it; extra seconds of latency."""
        extra = 0.0
        extent = None
        if job.operation in ("read", "write"):  # begin with the same fields
            _handle, offset, size = job.request.read()
            extent = (offset, offset + size)
        handle = job.handle.id if job.handle else None
        for fault in self._faults:
            if not fault.hits(job.operation, job.path, handle, extent):
                continue
            if fault.kind == "delay":
                extra += fault.seconds
            elif fault.kind == "truncate":
                job.limit = fault.size
            elif fault.kind == "hang":
                job.hang = fault
            else:
                job.error = fault.error
        return extra

    def _fail(self, job: Job, _due: float) -> None:
        for counts in self._counts(job.path):
            counts.errors += 1
        self._finish(job, job.error)

    def _look_for_killed(self) -> None:
        """Let go of threads that were killed while they wait, as NFS does.

        The kernel tells of any signal, once; only a fatal one may end the wait, and that can
        come later than the first.
        """
        for unique in list(self._interrupted):
            job = self._jobs.get(unique)
            if job is None:
                self._interrupted.discard(unique)
            elif _is_killed(job.request.thread):
                self._finish(job, errno.EINTR)

    # Operations

    def _perform(self, job: Job, _due: float) -> None:
        try:
            reply: bytes | int = getattr(self, f"_do_{job.operation}")(job)
        except OSError as error:
            reply = error.errno or errno.EIO
        self._finish(job, reply)

    def _do_lookup(self, job: Job) -> bytes:
        return self._entry(job, job.request.name())

    def _entry(self, job: Job, name: str) -> bytes:
        parent = self._nodes[job.request.node]
        flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, dir_fd=parent.fd)
        found = os.fstat(fd)
        number = self._by_identity.get(_identity(found))
        if number is None:
            self._node_number += 1
            number = self._node_number
            self._nodes[number] = Node(number, fd, job.path, _identity(found))
            self._by_identity[_identity(found)] = number
        else:
            os.close(fd)
        node = self._nodes[number]
        node.lookups += 1
        node.path = job.path
        return protocol.entry_reply(
            number, self._attributes(job, found), self.speed.entry_timeout, self.speed.attr_timeout
        )

    def _do_getattr(self, job: Job) -> bytes:
        found = os.fstat(self._nodes[job.request.node].fd)
        return protocol.attr_reply(self._attributes(job, found), self.speed.attr_timeout)

    def _attributes(self, job: Job, found: os.stat_result) -> bytes:
        size = found.st_size
        if job.limit is not None and stat.S_ISREG(found.st_mode):
            size = min(size, job.limit)
        return protocol.attributes(found, size)

    def _do_readlink(self, job: Job) -> bytes:
        return os.fsencode(os.readlink("", dir_fd=self._nodes[job.request.node].fd))

    def _do_open(self, job: Job) -> bytes:
        return self._opened(self._nodes[job.request.node], job.request.open_flags())

    def _opened(self, node: Node, wanted: int) -> bytes:
        mode = wanted & os.O_ACCMODE if self.writable else os.O_RDONLY
        fd = os.open(f"/proc/self/fd/{node.fd}", mode | os.O_CLOEXEC)
        found = os.fstat(fd)
        content = (found.st_mtime_ns, found.st_size, self._epoch)
        # Where it is written, it is written through this mount alone: the pages are right.
        keep = self.writable or (self.speed.keep_cache and node.content == content)
        node.content = content
        handle = self._new_handle(fd, node)
        flags = protocol.FOPEN_KEEP_CACHE if keep else 0
        if self.speed.direct:
            flags |= protocol.FOPEN_DIRECT_IO
        return protocol.open_reply(handle.id, flags)

    def _do_opendir(self, job: Job) -> bytes:
        node = self._nodes[job.request.node]
        fd = os.open(f"/proc/self/fd/{node.fd}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        handle = self._new_handle(fd, node)
        handle.entries = list(_entries(fd))
        return protocol.open_reply(handle.id, 0)

    def _do_readdir(self, job: Job) -> bytes:
        _handle, offset, size = job.request.read()
        assert job.handle is not None
        reply = b""
        for number, entry in enumerate(job.handle.entries[offset:], start=offset + 1):
            inode, kind, name = entry
            packed = protocol.directory_entry(inode, number, kind, name)
            if len(reply) + len(packed) > size:
                break
            reply += packed
        return reply

    def _new_handle(self, fd: int, node: Node) -> Handle:
        self._handle_number += 1
        handle = Handle(self._handle_number, fd, node, node.path)
        self._handles[handle.id] = handle
        return handle

    # What changes files

    def _do_create(self, job: Job) -> bytes:
        (name,) = job.request.names(16)
        flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        mode = job.request.number(4) & 0o7777
        os.close(os.open(name, flags, mode, dir_fd=self._nodes[job.request.node].fd))
        entry = self._entry(job, name)
        node = self._nodes[struct.unpack_from("<Q", entry)[0]]
        return entry + self._opened(node, job.request.number())

    def _do_write(self, job: Job) -> bytes:
        _handle, offset, data = job.request.write()
        assert job.handle is not None
        return protocol.write_reply(os.pwrite(job.handle.fd, data, offset))

    def _do_fsync(self, job: Job) -> bytes:
        assert job.handle is not None
        os.fsync(job.handle.fd)
        return b""

    def _do_setattr(self, job: Job) -> bytes:
        wanted, path = job.request.setattr(), f"/proc/self/fd/{self._nodes[job.request.node].fd}"
        if wanted.size is not None:
            os.truncate(path, wanted.size)
        if wanted.mode is not None:
            os.chmod(path, wanted.mode)
        if wanted.times is not None:
            os.utime(path, ns=wanted.times)
        elif wanted.now:
            os.utime(path)
        return self._do_getattr(job)

    def _do_mkdir(self, job: Job) -> bytes:
        (name,) = job.request.names(8)
        mode = job.request.number() & 0o7777
        os.mkdir(name, mode, dir_fd=self._nodes[job.request.node].fd)
        return self._entry(job, name)

    def _do_symlink(self, job: Job) -> bytes:
        name, target = job.request.names(0)
        os.symlink(target, name, dir_fd=self._nodes[job.request.node].fd)
        return self._entry(job, name)

    def _do_unlink(self, job: Job) -> bytes:
        os.unlink(job.request.name(), dir_fd=self._nodes[job.request.node].fd)
        return b""

    def _do_rmdir(self, job: Job) -> bytes:
        os.rmdir(job.request.name(), dir_fd=self._nodes[job.request.node].fd)
        return b""

    def _do_rename(self, job: Job) -> bytes | int:
        request = job.request
        if request.opcode == protocol.RENAME2 and request.number(8):
            return errno.EINVAL  # RENAME_EXCHANGE ...
        old, new = request.names(_rename_head(request))
        here, there = self._nodes[request.node], self._nodes[request.number(wide=True)]
        os.rename(old, new, src_dir_fd=here.fd, dst_dir_fd=there.fd)
        renamed = os.stat(new, dir_fd=there.fd, follow_symlinks=False)
        number = self._by_identity.get(_identity(renamed))
        if number is not None:
            self._nodes[number].path = _join(there.path, new)
        return b""

    # Reads: taken from the backing file while the latency passes, then through the pipe

    def _take_data(self) -> None:
        if self._unread:
            job = self._unread.popleft()
            if job.data is None:
                self._fetch(job)

    def _fetch(self, job: Job) -> None:
        _handle, offset, size = job.request.read()
        if job.limit is not None:
            size = max(0, min(size, job.limit - offset))
        assert job.handle is not None
        try:
            job.data = os.pread(job.handle.fd, size, offset)
        except OSError as error:
            job.error = error.errno or errno.EIO
            job.data = b""

    def _transfer(self, job: Job, due: float) -> None:
        if job.data is None:
            self._fetch(job)
        assert job.data is not None
        self._at(self._pipe.book(due, len(job.data), self.speed.bandwidth), self._deliver, job)

    def _deliver(self, job: Job, due: float) -> None:
        if job.error:
            self._finish(job, job.error)
            return
        assert job.data is not None and job.handle is not None
        offset, inode = job.request.read()[1], job.handle.node.identity[1]
        for counts in self._counts(job.path):
            counts.bytes_read += len(job.data)
        if job.data:
            self._files[job.path].log.append((offset, len(job.data), inode, due))
        self._finish(job, job.data)

    # Answers

    def _finish(self, job: Job, reply: bytes | int) -> None:
        del self._jobs[job.request.unique]
        self._interrupted.discard(job.request.unique)
        if job.hang is not None:
            self._hanging = [other for other in self._hanging if other is not job]
        self._answer(job.request, reply)

    def _answer(self, request: Request, reply: bytes | int) -> None:
        error, body = (reply, b"") if isinstance(reply, int) else (0, reply)
        with contextlib.suppress(FileNotFoundError):  # nobody waits for it any more
            os.writev(self._fuse, [protocol.header(request.unique, len(body), error), body])

    # Control: one JSON object a line, and one back

    def _listen(self, path: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(64)
        self._watch(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        peer, _address = self._listener.accept()
        received = bytearray()

        def readable() -> None:
            data = peer.recv(65536)
            received.extend(data)
            while b"\n" in received:
                line, _, rest = bytes(received).partition(b"\n")
                received[:] = rest
                peer.sendall(json.dumps(self._command(json.loads(line))).encode() + b"\n")
            if not data:
                self._poll.unregister(peer.fileno())
                del self._sockets[peer.fileno()]
                peer.close()

        self._watch(peer.fileno(), readable)

    def _command(self, message: dict) -> object:
        try:
            return {"result": getattr(self, f"_on_{message.pop('command')}")(**message)}
        except (AttributeError, TypeError, ValueError) as error:
            return {"error": str(error)}

    def _on_set(self, **changes: float) -> dict:
        self.speed.update(changes)
        return asdict(self.speed)

    def _on_fault(self, *, kind: str, existing: bool = False, **rest: object) -> int:
        if kind not in KINDS and not isinstance(getattr(errno, kind, None), int):
            raise ValueError(f"no such fault: {kind} (an errno name, {', '.join(KINDS)})")
        self._fault_number += 1
        fault = Fault(kind, self._fault_number, **rest)
        unknown = set(fault.operations) - set(OPERATIONS)
        if unknown:
            raise ValueError(f"no such operation: {', '.join(sorted(unknown))}")
        if existing:
            fault.handles_until = self._handle_number
        self._faults.append(fault)
        return fault.number

    def _on_release(self, *, number: int | None = None) -> None:
        gone = [fault for fault in self._faults if number in (None, fault.number)]
        self._faults = [fault for fault in self._faults if fault not in gone]
        now = time.monotonic()
        for job in [job for job in self._hanging if job.hang in gone]:
            self._hanging.remove(job)
            job.hang = None
            assert job.resume is not None
            self._at(now, job.resume, job)

    def _on_counters(self, *, path: str | None = None) -> dict:
        counts = self._total if path is None else self._files.get(path, Counts())
        figures = {name: value for name, value in asdict(counts).items() if name != "log"}
        figures["hanging"] = sum(path in (None, job.path) for job in self._hanging)
        figures["open_files"] = sum(path in (None, h.path) for h in self._handles.values())
        return figures

    def _on_log(self, *, path: str) -> list:
        return self._files[path].log if path in self._files else []

    def _on_paths(self) -> list[str]:
        return sorted(path for path, counts in self._files.items() if counts.log)

    def _on_reset(self) -> None:
        self._total = Counts()
        self._files.clear()

    def _on_drop_cache(self) -> None:
        self._epoch += 1

    def _on_stop(self) -> None:
        self.stop()


def run(
    backing: str,
    mountpoint: str,
    control: str,
    *,
    speed: Speed,
    read_ahead: int,
    parent: bool,
    writable: bool,
) -> None:
    """Serve until SIGTERM or unmount, with ``parent`` also until standard input ends.

    One line on stdout when it is mounted: a JSON object with the kernel's read-ahead.
    """
    with contextlib.suppress(OSError):
        # Late answers would be a slower file system than the figures say.
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    mounting.exact_timers()
    backing, mountpoint = os.path.realpath(backing), os.path.realpath(mountpoint)
    server = Server(backing, mountpoint, control, speed=speed, writable=writable)
    try:
        signal.signal(signal.SIGTERM, _exit)
        signal.signal(signal.SIGINT, _exit)
        if parent:
            server.watch_parent()
        real = mounting.set_read_ahead(mountpoint, read_ahead)
        print(json.dumps({"read_ahead": real}), flush=True)
        server.serve()
    finally:
        server.close()


def _exit(_number: int, _frame: object) -> None:
    raise SystemExit(0)


def _entries(fd: int) -> Iterator[tuple[int, int, str]]:
    with os.scandir(fd) as found:
        for entry in found:
            kind = stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode) >> 12
            yield entry.inode(), kind, entry.name


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _join(parent: str, name: str) -> str:
    return f"{parent}/{name}" if parent else name


def _rename_head(request: Request) -> int:
    """Bytes before the two names."""
    return 8 if request.opcode == protocol.RENAME else 16


def _is_killed(thread: int) -> bool:
    """Whether SIGKILL waits for this thread, or it is gone."""
    try:
        with open(f"/proc/{thread}/status", encoding="ascii", errors="replace") as lines:
            pending = next(line for line in lines if line.startswith("SigPnd:"))
    except (OSError, StopIteration):
        return True
    return bool(int(pending.split()[1], 16) & (1 << (signal.SIGKILL - 1)))
