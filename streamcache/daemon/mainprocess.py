"""What the daemon's main process has from its start to its end, whoever serves.

Sockets, pid file, user, the ear of the service manager, a process that it follows or that follows
it. The main process is the supervisor, which has no hub, or the only worker, which has one: nothing
here switches, and only ``begin`` and ``read_again`` block.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Self

from streamcache.admin.sockets import Sockets, adopt_sockets, open_sockets
from streamcache.config import changed
from streamcache.daemon import checks, logs
from streamcache.daemon.announce import ready_line, say
from streamcache.daemon.identity import Identity
from streamcache.daemon.listener import ADMIN, PUBLIC, Inherited, Listener, activated
from streamcache.daemon.notify import Notifier
from streamcache.daemon.pidfile import PidFile, PidFileError
from streamcache.daemon.reloading import Reload
from streamcache.daemon.upgrade import Predecessor, Progress, Successor
from streamcache.errors import ConfigError, StreamCacheError
from streamcache.server.address import Address
from streamcache.settings import Settings

log = logging.getLogger(__name__)


class MainProcess:
    """Made by ``begin``; ``end`` is its opposite."""

    def __init__(
        self,
        settings: Settings,
        read: Callable[[], Settings],
        notifier: Notifier,
        predecessor: Predecessor | None,
        listener: Listener,
        pid_file: PidFile | None,
        admin: Sockets | None,
        admin_listen: str | None,
    ) -> None:
        self.settings = settings  # what holds now; after the first start with the size of the cache
        self.notifier = notifier
        self.admin = admin  # there until all are drained
        self._admin_listen = admin_listen  # see ``Inherited``
        self.successor: Successor | None = None
        self._read = read
        self._predecessor = predecessor
        self._listener = listener
        self._pid_file = pid_file
        self._succeeded_by = 0  # the process id

    @classmethod
    def begin(cls, settings: Settings, read: Callable[[], Settings]) -> Self:
        """Take what is needed, become who is wanted, check. Raises ConfigError, OSError.

        ``read`` gives the settings as they stand when it is called.
        """
        server = settings.config.server
        predecessor = Predecessor.of_environment()
        given = activated() if predecessor is None else predecessor.listeners
        identity = Identity.wanted(settings)
        checks.parse_address(settings)
        if server.umask:
            os.umask(int(server.umask, 8))
        raise_file_limit()
        with ExitStack() as stack:
            pid_file = None if predecessor is None else predecessor.pid_file
            if pid_file is None and server.pid_file:
                pid_file = _take_pid_file(settings)
                stack.callback(pid_file.remove)
            try:
                listener = Listener.take(server.listen, server.backlog, given.get(PUBLIC))
            except OSError as error:
                if checks.is_address_error(error):
                    raise checks.cannot_listen(settings, error) from error
                raise
            listener.scheme = server.scheme
            stack.callback(listener.close, remove=predecessor is None)
            if identity is not None:
                identity.become(settings)
            checks.check(settings)
            admin, admin_listen = _admin_sockets(settings, listener, given.get(ADMIN))
            stack.pop_all()
        return cls(
            *(settings, read, Notifier(), predecessor, listener, pid_file, admin, admin_listen)
        )

    def __repr__(self) -> str:
        return f"<MainProcess {self._listener.url} successor={self.successor!r}>"

    @property
    def listener(self) -> Listener:
        """Where clients connect."""
        return self._listener

    def found_size(self, size: int) -> None:
        """The first start has found out what a ``cache.size`` of 0 stands for."""
        config = changed(self.settings.config, "cache", size=size)
        self.settings = replace(self.settings, config=config)

    def read_again(self) -> Reload:
        """What a reload would do. Blocks on files. Raises ConfigError, and nothing else."""
        try:
            return Reload.of(self.settings, self._read)
        except ConfigError:
            raise
        except OSError as error:  # the working directory is gone, say
            raise ConfigError(f"cannot read it: {error.strerror or error}") from error
        except Exception as error:  # a fault of ours is no reason to end
            log.exception("reload failed")
            raise ConfigError("a fault of streamcache; its log says more") from error

    def adopt(self, reload: Reload) -> None:
        """It is done from now on: in those who are told, and in who is born later."""
        self.settings = reload.settings
        logs.reconfigure(self.settings.config.log)

    def reloaded(self, reload: Reload) -> None:
        """All who were told have done it."""
        form = f"reloaded {' '.join(f'{name}=%s' for name in reload.told)}"
        log.log(logging.WARNING if reload.restart else logging.INFO, form, *reload.told.values())
        self.notifier.ready(f"{self.status}; reloaded {reload}")

    def not_reloaded(self, error: StreamCacheError) -> None:
        """It cannot be: all goes on as it was."""
        log.error("not reloaded, nothing has changed error=%s", error)
        self.notifier.ready(f"{self.status}; not reloaded: {error}")

    def serves(self) -> None:
        """All workers accept: say so to whoever waits for it."""
        config = self.settings.config
        predecessor, self._predecessor = self._predecessor, None
        if predecessor is not None:
            self._take_over(predecessor)
        log.info("serving url=%s size=%d", self._listener.url, config.cache.size)
        if self.admin is not None:
            log.info("admin listener url=%s", self.admin.address.url)
        line = ready_line(
            self._listener.url,
            source=config.source.path,
            cache=config.cache.dir,
            size=config.cache.size,
        )
        try:
            say(line)
        except (OSError, ValueError, AttributeError) as error:
            log.warning("ready, but stdout cannot be written error=%s", error)
        self.notifier.ready(self.status)

    @property
    def status(self) -> str:
        """One line for people."""
        workers = self.settings.config.server.workers
        return f"serving {self._listener.url} with {workers} worker{'s' * (workers > 1)}"

    @property
    def is_retired(self) -> bool:
        """Whether another process has taken over."""
        return bool(self._succeeded_by)

    def stopped(self) -> None:
        """The last line of the log."""
        if self._succeeded_by:
            log.info("stopped, handed over to pid=%d", self._succeeded_by)
        else:
            log.info("stopped")

    def leave_address(self) -> None:
        """Nobody new gets in, unless to another process that has it too. Idempotent."""
        self._listener.close(remove=self._is_alone)

    def stopping(self) -> None:
        """It drains, and ends then; a successor that does not serve yet is not wanted any more."""
        self.leave_address()
        self._give_up_upgrade()
        if not self._succeeded_by:
            self.notifier.stopping("draining")

    def forked(self) -> None:
        """In a worker: what belongs to the main process alone is let go of."""
        if self._pid_file is not None:
            self._pid_file.close()
        if self._predecessor is not None:
            self._predecessor.line.close()
        if self.successor is not None:
            self.successor.close()

    def end(self) -> None:
        """Leave no file behind that is ours. Idempotent."""
        self.leave_address()
        self._give_up_upgrade()
        if self.admin is not None:
            if not self._is_alone:
                self.admin.hand_over()
            self.admin.close()
            self.admin = None
        if self._pid_file is None:
            return
        if self._is_alone:
            self._pid_file.remove()
        else:
            self._pid_file.close()

    @property
    def _is_alone(self) -> bool:
        """Whether what we hold is nobody else's: we took it over, and gave it to nobody."""
        return self._predecessor is None and not self._succeeded_by

    # -- a successor

    def start_successor(self) -> bool:
        """Begin an upgrade, unless one runs; False: not begun, which is logged."""
        if self.successor is not None:
            log.warning("ignored: an upgrade runs already pid=%d", self.successor.pid)
            return False
        try:
            self.successor = Successor.start(self._listeners, self._pid_file)
        except OSError as error:
            log.error("upgrade failed, the new process cannot be started error=%s", error)
            return False
        log.info("upgrade started pid=%d", self.successor.pid)
        return True

    def ordered(self, number: signal.Signals) -> None:
        """This process was told to do something that who follows has to do, too."""
        if self.successor is not None:
            self.successor.owed[number] = None

    def is_succeeded(self) -> bool:
        """Look how the upgrade goes: whether the new process serves, and this one is to drain."""
        successor = self.successor
        if successor is None:
            return False
        progress = successor.progress()
        if progress is Progress.STARTING:
            return False
        self.successor = None
        if progress is Progress.FAILED:
            form = "upgrade failed, serving on pid=%d error=%s"
            log.error(form, successor.pid, successor.problem)
            successor.dismiss()
            if self._pid_file is not None:
                self._pid_file.write()
            return False
        successor.close()
        self._succeeded_by = successor.pid
        self.notifier.succeeded_by(successor.pid)
        successor.pass_on()
        if self._pid_file is not None:
            self._pid_file.close()
            self._pid_file = None
        log.info("upgrade done, this process drains and another one serves pid=%d", successor.pid)
        logs.retire()
        return True

    def _give_up_upgrade(self) -> None:
        """Who wants the server to end does not want another one in its place."""
        if self.successor is not None:
            log.warning("upgrade given up, this process ends pid=%d", self.successor.pid)
            self.successor.dismiss()
            self.successor = None

    @property
    def _listeners(self) -> dict[str, Listener]:
        """What a successor inherits."""
        found = {PUBLIC: self._listener}
        if self.admin is not None:
            path = self.admin.address.path if self._admin_listen is not None else ""
            found[ADMIN] = Listener(self.admin.listener, self._admin_listen, path)
        return found

    def _take_over(self, predecessor: Predecessor) -> None:
        wanted = self.settings.config.server.pid_file
        try:
            if self._pid_file is not None and self._pid_file.path != wanted:
                self._pid_file.remove()
                self._pid_file = PidFile.take(wanted) if wanted else None
            elif self._pid_file is not None:
                self._pid_file.write()
        except (OSError, PidFileError) as error:
            log.error("no pid file error=%s", error)
        predecessor.leave()
        log.info("upgrade: took over from pid=%d", predecessor.pid)


def _admin_sockets(
    settings: Settings, public: Listener, inherited: Inherited | None
) -> tuple[Sockets | None, str | None]:
    """The admin listener, and what it was bound for (see ``Inherited``)."""
    listen = settings.config.server.admin
    if inherited is not None:
        sock = socket.socket(fileno=inherited.fd)
        sock.set_inheritable(False)
        if inherited.listen in (None, listen):
            sockets = adopt_sockets(settings, sock, inherited.path)
            if inherited.listen is None:
                sockets.hand_over()  # its file is systemd's
            return sockets, inherited.listen
        sock.close()  # it is to be elsewhere now
    return open_sockets(settings, Address.of(public.socket)), listen


def _take_pid_file(settings: Settings) -> PidFile:
    try:
        return PidFile.take(settings.config.server.pid_file)
    except PidFileError as error:
        raise ConfigError(f"{settings.where('server', 'pid_file')}: {error}") from None


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one; the limit that then holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:
            log.warning("open files stay limited limit=%d error=%s", soft, error)
            return soft
    return hard
