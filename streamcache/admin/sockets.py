"""What the admin listener consists of: one socket for all workers, and a place for one of each.

Made before the workers are forked, or by the only one, and closed by who made it. Nothing here
serves.

The socket files are 0600 from their first moment: they are made in a directory that only we can
enter, and then moved to their place. That also takes over the name of a server that has died, or
of one that hands over to us.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Final, Self

from streamcache.admin.place import default_directory, make_directory, socket_name, sockets_in
from streamcache.errors import ConfigError
from streamcache.server.address import Address, SocketFile, is_stale
from streamcache.settings import Settings

log = logging.getLogger(__name__)

OFF: Final = "off"
BACKLOG: Final = 64
_ALLOWED: Final = 'allowed: HOST:PORT, [IPv6]:PORT, unix:PATH, "off", or nothing for the default'
_PRIVATE: Final = ".workers-"


def parse(settings: Settings) -> Address | None:
    """The address that ``server.admin`` gives; None: the default, or off. ConfigError."""
    text = settings.config.server.admin
    if text in ("", OFF):
        return None
    where = settings.where("server", "admin")
    try:
        address = Address.parse(text)
    except ValueError as error:
        raise ConfigError(f"{where}: {text!r}: {error}; {_ALLOWED}") from None
    if not (address.path or address.host):
        raise ConfigError(f"{where}: {text!r} has no host; {_ALLOWED}")
    if text == settings.config.server.listen and (address.path or address.port):
        raise ConfigError(f"{where}: {text} is where clients connect; allowed: another address")
    return address


class Sockets:
    """The shared listener, and the directory where each worker has a socket of its own."""

    def __init__(
        self, listener: socket.socket, address: Address, private: str, workers: int
    ) -> None:
        self.listener = listener
        self.address = address  # of the listener, as it can be connected to
        self.workers = workers
        self._private = private
        self._stack = ExitStack()
        self._stack.callback(shutil.rmtree, private, ignore_errors=True)
        self._file = SocketFile(address.path) if address.path else None
        self._stack.callback(self._remove_file)
        self._stack.callback(listener.close)

    def __repr__(self) -> str:
        return f"<Sockets {self.address.url} workers={self.workers}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove what was made."""
        self._stack.close()

    def hand_over(self) -> None:
        """The file of the listener is another's: it made it, or goes on with it."""
        self._file = None

    def _remove_file(self) -> None:
        if self._file is not None:
            self._file.remove()

    def path_of(self, worker: str) -> str:
        """Where the worker of this name ("w1") listens for the others."""
        return os.path.join(self._private, worker)


def open_sockets(
    settings: Settings,
    public: Address,
    environ: Mapping[str, str] = os.environ,
) -> Sockets | None:
    """What ``server.admin`` asks for, beside a server that listens at ``public``.

    None: it is off, or the default cannot be had, which is no reason not to serve. ConfigError for
    an address that was asked for.
    """
    if settings.config.server.admin == OFF:
        return None
    address, workers = parse(settings), settings.config.server.workers
    directory = default_directory(environ, os.geteuid())
    try:
        if address is None:
            make_directory(directory)
            _tidy(directory)
            # Whoever had this name had the public address, which is ours now.
            address = Address(path=os.path.join(directory, socket_name(public)))
            return _open(address, directory, workers)
    except OSError as error:
        log.warning("no admin listener, name a place for it with --admin error=%s", error)
        return None
    try:
        if address.path:
            _check_free(address.path)
        return _open(address, _writable(directory), workers)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(
            f"{settings.where('server', 'admin')}: cannot listen on"
            f" {settings.config.server.admin}: {reason}; allowed: an address of this machine that"
            " is free"
        ) from error


def adopt_sockets(settings: Settings, listener: socket.socket, path: str = "") -> Sockets:
    """The same around a listener that another process has made. OSError.

    ``path``: of its file; a socket knows only the name that it was bound to.
    """
    listener.setblocking(False)
    address = Address(path=path) if path else Address.of(listener)
    wanted = parse(settings)
    if wanted is not None and address.host and wanted.host:
        address = replace(address, host=wanted.host)
    directory = _writable(default_directory(os.environ, os.geteuid()))
    private = _make_private(directory)
    return Sockets(listener, address, private, settings.config.server.workers)


def listen_alone(path: str) -> socket.socket:
    """A socket that listens at ``path``, for this user only; what had that name is replaced."""
    folder = tempfile.mkdtemp(prefix=".", dir=os.path.dirname(path))
    try:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            inner = os.path.join(folder, "s")
            listener.bind(inner)
            os.chmod(inner, 0o600)
            listener.listen(BACKLOG)
            listener.setblocking(False)
            os.rename(inner, path)
        except BaseException:
            listener.close()
            raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return listener


def _open(address: Address, directory: str, workers: int) -> Sockets:
    """``directory``: where the private sockets are made."""
    with ExitStack() as stack:
        if address.path:
            listener = listen_alone(address.path)
            stack.callback(SocketFile(address.path).remove)
        else:
            listener = address.bind(BACKLOG, socket.socket)
            listener.setblocking(False)
            _warn_if_open(listener)
            address = replace(Address.of(listener), host=address.host)  # by the name it was given
        stack.callback(listener.close)
        private = _make_private(directory)
        stack.pop_all()
    return Sockets(listener, address, private, workers)


def _warn_if_open(listener: socket.socket) -> None:
    host = listener.getsockname()[0]
    if not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
        form = "admin listener asks for no password, who reaches it can purge and drain host=%s"
        log.warning(form, host)


def _check_free(path: str) -> None:
    """Nothing has this name but a socket that nobody answers."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "it is there, and no socket", path)
    if not is_stale(path):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path)


def _writable(directory: str) -> str:
    """That directory, else the one for temporary files."""
    try:
        make_directory(directory)
    except OSError:
        return tempfile.gettempdir()
    return directory


def _tidy(directory: str) -> None:
    """Remove the listeners of servers that were killed."""
    for path in sockets_in(directory):
        if is_stale(path):
            with contextlib.suppress(OSError):
                os.unlink(path)


def _make_private(directory: str) -> str:
    """A directory there for the sockets of our workers; those of dead servers go. OSError."""
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        if name.startswith(_PRIVATE) and _is_left(path, name.removeprefix(_PRIVATE)):
            shutil.rmtree(path, ignore_errors=True)
    return tempfile.mkdtemp(prefix=f"{_PRIVATE}{os.getpid()}-", dir=directory)


def _is_left(path: str, name: str) -> bool:
    """Whether it is ours (others use /tmp too), and the process that made "PID-..." is gone."""
    try:
        if os.lstat(path).st_uid != os.geteuid():
            return False
        os.kill(int(name.partition("-")[0]), 0)
    except ProcessLookupError:
        # Or it is one of another container, whose workers answer.
        return all(is_stale(os.path.join(path, worker)) for worker in os.listdir(path))
    except (OSError, ValueError):
        return False
    return False
