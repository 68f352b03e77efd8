"""The daemon's life: check, then serve in this process, or as the supervisor of several.

The parts that do the work are imported when they are needed, so that ``--help``, ``--check`` and
error messages come at once.
"""

from __future__ import annotations

import logging
import resource
import signal

from streamcache.config import Config
from streamcache.daemon import checks, logs
from streamcache.daemon.announce import ready_line, report, say
from streamcache.daemon.parts import Parts, real_parts
from streamcache.daemon.paths import resolve
from streamcache.settings import Settings

log = logging.getLogger(__name__)


def check(settings: Settings) -> None:
    """``--check``: print what would run, or raise ConfigError."""
    settings = resolve(settings)
    checks.check(settings)
    checks.check_address(settings)
    say(report(settings))


def serve(settings: Settings, parts: Parts | None = None) -> int:
    """Serve until a signal comes, then drain; the exit code. Switches with one worker.

    Raises ConfigError for whatever a setting can mend, before the ready line is printed.
    """
    settings = resolve(settings)
    workers = settings.config.server.workers
    logs.configure(settings.config.log, role="" if workers == 1 else "supervisor")
    logs.name_process("streamcache")
    checks.check(settings)
    raise_file_limit()
    parts = parts or real_parts()
    # Here and not above: the one must never make a hub, the other has one.
    if workers == 1:
        return _serve_alone(settings, parts)
    from streamcache.daemon.supervisor import supervise

    return supervise(settings, parts, announce)


def _serve_alone(settings: Settings, parts: Parts) -> int:
    """One worker needs no supervisor; its crash ends the daemon."""
    from streamcache.admin.board import Board
    from streamcache.daemon import worker
    from streamcache.daemon.signals import IGNORED, StopSignals

    for number in IGNORED:  # as the supervisor does
        signal.signal(number, signal.SIG_IGN)
    board = Board(1)
    signals = StopSignals()
    try:
        listen = settings.config.server.listen
        worker.run(settings, parts, listen, board.slot(0), signals, announce)
    finally:
        signals.close()
    log.info("%s", board.totals())
    log.info("stopped")
    return 0


def announce(url: str, config: Config) -> None:
    """Print the ready line; a stdout that is closed is no reason not to serve."""
    line = ready_line(
        url, source=config.source.path, cache=config.cache.dir, size=config.cache.size
    )
    try:
        say(line)
    except (OSError, ValueError, AttributeError) as error:
        log.warning("ready, but stdout cannot be written: %s", error)
    log.info("serving url=%s size=%d", url, config.cache.size)


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one; the limit that then holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:
            log.warning("open files stay limited to %d: %s", soft, error)
            return soft
    return hard
