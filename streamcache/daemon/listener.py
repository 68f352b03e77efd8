"""The sockets that the daemon listens on: bound by it, or inherited with connections waiting there.

Before the first fork, in the main process. systemd gives sockets by LISTEN_FDS (sd_listen_fds(3));
a process that is succeeded by a new one gives its own (``upgrade.py``).
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Final, Self

from streamcache.errors import ConfigError
from streamcache.server.address import Address, SocketFile

PUBLIC: Final = "public"
ADMIN: Final = "admin"
_FIRST: Final = 3  # descriptor that systemd gives


@dataclass(frozen=True, slots=True)
class Inherited:
    """A socket that was bound by another process."""

    fd: int
    listen: str | None  # what it was bound for, in the words of the option; None: systemd's choice
    path: str = ""  # of its file, if it has one and that is the daemon's


@dataclass(slots=True)
class Listener:
    """A socket that listens, and what there is to do when it does so no more."""

    socket: socket.socket
    listen: str | None  # see ``Inherited``
    path: str = ""  # see ``Inherited``
    scheme: str = "http"  # of its URL
    _file: SocketFile | None = None

    def __post_init__(self) -> None:
        if self.path:
            self._file = SocketFile(self.path)

    @classmethod
    def take(cls, listen: str, backlog: int, inherited: Inherited | None = None) -> Self:
        """The inherited one, if it is what ``listen`` asks for, else a new one. OSError."""
        if inherited is not None:
            sock = socket.socket(fileno=inherited.fd)
            sock.set_inheritable(False)
            if inherited.listen in (None, listen):
                return cls(sock, inherited.listen, inherited.path)
            sock.close()
        address = Address.parse(listen)
        sock = address.bind(backlog, socket.socket)
        return cls(sock, listen, address.path)

    @property
    def url(self) -> str:
        """Where it really listens."""
        return Address.of(self.socket, self.scheme).url

    def close(self, *, remove: bool) -> None:
        """Take no more; ``remove`` the file of a Unix socket, too. Idempotent."""
        if self._file is not None and remove:
            self._file.remove()
        self._file = None
        self.socket.close()


def activated(
    environ: MutableMapping[str, str] = os.environ, pid: int | None = None
) -> dict[str, Inherited]:
    """What systemd gives, by the name of its use; the variables go, as they are for us alone.

    Raises ConfigError for what cannot be listened on.
    """
    for_us = environ.get("LISTEN_PID") == str(os.getpid() if pid is None else pid)
    count, names = environ.get("LISTEN_FDS", ""), environ.get("LISTEN_FDNAMES", "")
    for variable in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environ.pop(variable, None)
    if not (for_us and count.isascii() and count.isdigit()):
        return {}
    found: dict[str, Inherited] = {}
    for index, fd in enumerate(range(_FIRST, _FIRST + int(count))):
        name = (names.split(":") + [""] * int(count))[index]
        use = ADMIN if name == ADMIN else PUBLIC
        if use in found:
            raise ConfigError(
                f"systemd: two sockets, descriptors {found[use].fd} and {fd}, are {use};"
                f' allowed: one, and another one with FileDescriptorName="{ADMIN}"'
            )
        if not _listens(fd):
            raise ConfigError(
                f"systemd: descriptor {fd} ({name or 'no name'}) is no listening stream socket;"
                " allowed: what ListenStream= makes, with Accept=no"
            )
        found[use] = Inherited(fd, None)
    return found


def _listens(fd: int) -> bool:
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        return False
    try:
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        return bool(listens) and sock.type == socket.SOCK_STREAM
    finally:
        sock.detach()  # it is not ours yet
