"""The process that serves the recorded file system: in memory, one request after the other."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import select
import signal
import stat
import time
from dataclasses import dataclass, field
from typing import BinaryIO

from tests.powercut import protocol as more
from tests.powercut.history import (
    PAGE,
    ROOT,
    Drop,
    File,
    Make,
    Move,
    Record,
    Resize,
    Sync,
    Touch,
    Write,
)
from tests.slowfs import mounting, protocol
from tests.slowfs.protocol import Request

_KINDS = {"file": stat.S_IFREG, "folder": stat.S_IFDIR, "link": stat.S_IFLNK}
_FREE = 1 << 40  # bytes that the disk seems to have


@dataclass(slots=True)
class Inode:
    """Kept for ever: the kernel may still have it, and no test is long."""

    number: int
    mode: int
    links: int = 1
    file: File = field(default_factory=File)
    pages: set[int] = field(default_factory=set)  # that are not holes
    entries: dict[str, int] = field(default_factory=dict)
    target: str = ""
    ctime_ns: int = 0

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.mode)


class Server:
    """One mount; every change is written to ``log``, a pickle after the other."""

    def __init__(self, mountpoint: str, log: BinaryIO) -> None:
        self._mountpoint = mountpoint
        self._log = log
        self._inodes = {ROOT: Inode(ROOT, stat.S_IFDIR | 0o755, links=2)}
        self._listings: dict[int, list[tuple[int, int, str]]] = {}
        self._handles = 0
        self._fuse = mounting.mount(mountpoint, writable=True)

    def serve(self) -> None:
        """Until it is unmounted, or standard input ends."""
        poll = select.poll()
        poll.register(self._fuse, select.POLLIN)
        poll.register(0, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if 0 in ready:
                return
            try:
                data = os.read(self._fuse, more.REQUEST_SIZE)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR):
                    continue
                return
            self._answer(Request.parse(data))

    def close(self) -> None:
        """Unmount."""
        mounting.unmount(self._mountpoint)
        with contextlib.suppress(OSError):
            os.close(self._fuse)

    def _answer(self, request: Request) -> None:
        if request.opcode in (protocol.FORGET, protocol.BATCH_FORGET, protocol.INTERRUPT):
            return
        action = _ACTIONS.get(request.opcode)
        error, body = errno.ENOSYS, b""
        if action is not None:
            try:
                error, body = 0, action(self, request)
            except OSError as problem:
                error = problem.errno or errno.EIO
        with contextlib.suppress(FileNotFoundError):  # nobody waits for it any more
            os.writev(self._fuse, [protocol.header(request.unique, len(body), error), body])

    def _record(self, record: Record) -> None:
        pickle.dump(record, self._log)

    # What the kernel asks

    def _init(self, request: Request) -> bytes:
        _, minor, read_ahead, flags = request.init()
        return more.init_reply(min(minor, protocol.MINOR), read_ahead, flags)

    def _lookup(self, request: Request) -> bytes:
        return self._entry(self._child(request.node, request.name()))

    def _getattr(self, request: Request) -> bytes:
        return protocol.attr_reply(self._attributes(self._inodes[request.node]), 0.0)

    def _readlink(self, request: Request) -> bytes:
        return os.fsencode(self._inodes[request.node].target)

    def _open(self, request: Request) -> bytes:
        self._handles += 1
        return protocol.open_reply(self._handles, protocol.FOPEN_KEEP_CACHE)

    def _opendir(self, request: Request) -> bytes:
        self._handles += 1
        self._listings[self._handles] = [
            (number, stat.S_IFMT(self._inodes[number].mode) >> 12, name)
            for name, number in self._inodes[request.node].entries.items()
        ]
        return protocol.open_reply(self._handles, 0)

    def _readdir(self, request: Request) -> bytes:
        handle, offset, size = request.read()
        reply = b""
        for number, entry in enumerate(self._listings[handle][offset:], start=offset + 1):
            inode, kind, name = entry
            packed = protocol.directory_entry(inode, number, kind, name)
            if len(reply) + len(packed) > size:
                break
            reply += packed
        return reply

    def _releasedir(self, request: Request) -> bytes:
        self._listings.pop(request.handle(), None)
        return b""

    def _read(self, request: Request) -> bytes:
        _, offset, size = request.read()
        return bytes(self._inodes[request.node].file.data[offset : offset + size])

    def _write(self, request: Request) -> bytes:
        offset, data = more.write(request.body)
        inode = self._inodes[request.node]
        self._change(inode, Write(inode.number, offset, data))
        inode.pages.update(range(offset // PAGE, -(-(offset + len(data)) // PAGE)))
        inode.file.mtime_ns = time.time_ns()  # no record: every write has it
        return len(data).to_bytes(4, "little") + bytes(4)

    def _setattr(self, request: Request) -> bytes:
        inode = self._inodes[request.node]
        valid, size, mtime_ns, mode = more.changes(request.body)
        if valid & more.VALID_MODE:
            inode.mode = stat.S_IFMT(inode.mode) | stat.S_IMODE(mode)
        if valid & more.VALID_SIZE:
            self._change(inode, Resize(inode.number, size))
            inode.pages = {page for page in inode.pages if page * PAGE < size}
            inode.file.mtime_ns = time.time_ns()
        if valid & more.VALID_MTIME:
            now = valid & more.VALID_MTIME_NOW
            self._change(inode, Touch(inode.number, time.time_ns() if now else mtime_ns))
        return self._getattr(request)

    def _sync(self, request: Request) -> bytes:
        self._record(Sync(request.node))
        return b""

    def _create(self, request: Request) -> bytes:
        (name,) = more.names(request.body, 16)
        inode = self._make(request.node, name, "file")
        return self._entry(inode) + self._open(request)

    def _mkdir(self, request: Request) -> bytes:
        (name,) = more.names(request.body, 8)
        return self._entry(self._make(request.node, name, "folder"))

    def _symlink(self, request: Request) -> bytes:
        name, target = more.names(request.body, 0)
        return self._entry(self._make(request.node, name, "link", target))

    def _unlink(self, request: Request) -> bytes:
        name = request.name()
        self._unname(self._child(request.node, name))
        del self._inodes[request.node].entries[name]
        self._record(Drop(request.node, name))
        return b""

    def _rename(self, request: Request) -> bytes:
        skip = 8 if request.opcode == more.RENAME else 16
        if any(request.body[8:skip]):
            raise OSError(errno.EINVAL, "no flags of renameat2")
        folder = int.from_bytes(request.body[:8], "little")
        name, new = more.names(request.body, skip)
        moved, target = self._child(request.node, name), self._inodes[folder]
        if new in target.entries:
            self._unname(self._inodes[target.entries[new]])
        del self._inodes[request.node].entries[name]
        target.entries[new] = moved.number
        self._record(Move(request.node, name, folder, new, moved.number))
        return b""

    def _statfs(self, _request: Request) -> bytes:
        blocks = _FREE // 4096
        values = (4096, 4096, blocks, blocks, blocks, 1 << 20, 1 << 20, 1 << 20, 0, 255)
        return protocol.statfs_reply(os.statvfs_result(values))

    def _nothing(self, _request: Request) -> bytes:
        return b""

    # Inodes

    def _child(self, folder: int, name: str) -> Inode:
        try:
            return self._inodes[self._inodes[folder].entries[name]]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, name) from None

    def _make(self, folder: int, name: str, kind: str, target: str = "") -> Inode:
        if name in self._inodes[folder].entries:
            raise FileExistsError(errno.EEXIST, name)
        number = max(self._inodes) + 1
        inode = Inode(number, _KINDS[kind] | 0o700, target=target)
        inode.file.mtime_ns = inode.ctime_ns = time.time_ns()
        self._inodes[number] = inode
        self._inodes[folder].entries[name] = number
        self._record(Make(folder, name, number, kind, target))
        return inode

    def _unname(self, inode: Inode) -> None:
        if inode.is_folder:
            raise OSError(errno.EISDIR, "folders stay")
        inode.links -= 1

    def _change(self, inode: Inode, change: Write | Resize | Touch) -> None:
        inode.file.apply(change)
        inode.ctime_ns = time.time_ns()
        self._record(change)

    def _entry(self, inode: Inode) -> bytes:
        return protocol.entry_reply(inode.number, self._attributes(inode), 0.0, 0.0)

    def _attributes(self, inode: Inode) -> bytes:
        return more.attributes(
            inode=inode.number,
            size=len(inode.target or inode.file.data),
            blocks=len(inode.pages) * PAGE // 512,
            mtime_ns=inode.file.mtime_ns,
            ctime_ns=inode.ctime_ns,
            mode=inode.mode,
            links=inode.links,
        )


_ACTIONS = {
    protocol.INIT: Server._init,
    protocol.LOOKUP: Server._lookup,
    protocol.GETATTR: Server._getattr,
    protocol.READLINK: Server._readlink,
    protocol.OPEN: Server._open,
    protocol.OPENDIR: Server._opendir,
    protocol.READDIR: Server._readdir,
    protocol.RELEASEDIR: Server._releasedir,
    protocol.READ: Server._read,
    protocol.STATFS: Server._statfs,
    protocol.RELEASE: Server._nothing,
    protocol.DESTROY: Server._nothing,
    more.FLUSH: Server._nothing,
    more.WRITE: Server._write,
    more.SETATTR: Server._setattr,
    more.FSYNC: Server._sync,
    more.FSYNCDIR: Server._sync,
    more.CREATE: Server._create,
    more.MKDIR: Server._mkdir,
    more.SYMLINK: Server._symlink,
    more.UNLINK: Server._unlink,
    more.RENAME: Server._rename,
    more.RENAME2: Server._rename,
}


def run(mountpoint: str, log: str) -> None:
    """Serve until SIGTERM, unmount or the end of standard input; a line on stdout when mounted."""
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(SystemExit(0)))
    with open(log, "wb", buffering=1 << 20) as file:
        server = Server(os.path.realpath(mountpoint), file)
        try:
            print("mounted", flush=True)
            server.serve()
        finally:
            server.close()
