"""The daemon's life: check, then serve in this process, or as the supervisor of several.

The parts that do the work are imported when they are needed, so that ``--help``, ``--check`` and
error messages come at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from streamcache.daemon import checks, logs
from streamcache.daemon.identity import Identity
from streamcache.daemon.mainprocess import MainProcess
from streamcache.daemon.parts import Parts, real_parts
from streamcache.daemon.paths import resolve
from streamcache.settings import Settings


def check(settings: Settings) -> Settings:
    """What would run, resolved and checked; ConfigError for whatever a setting can mend."""
    settings = resolve(settings)
    identity = Identity.wanted(settings)
    checks.check_address(settings)
    checks.check_pid_file(settings)
    if identity is not None:
        identity.become(settings)
    checks.check(settings)
    checks.warn_of_owner(settings)
    return settings


def serve(load: Callable[[], Settings], parts: Parts | None = None) -> int:
    """Serve until a signal comes, then drain; the exit code. Switches with one worker.

    ``load`` gives the settings, now and again at each reload. Raises ConfigError for whatever a
    setting can mend, before the ready line is printed.
    """
    user = os.geteuid()  # the default of the cache directory stays when the user is another

    def read() -> Settings:
        return resolve(load(), user=user)

    settings = read()
    workers = settings.config.server.workers
    logs.configure(settings.config.log, role="" if workers == 1 else "supervisor")
    logs.name_process("streamcache")
    main = MainProcess.begin(settings, read)
    parts = parts or real_parts()
    try:
        # Here and not above: the one must never make a hub, the other has one.
        if workers == 1:
            from streamcache.daemon.alone import serve_alone

            return serve_alone(main, parts)
        from streamcache.daemon.supervisor import supervise

        return supervise(main, parts)
    finally:
        main.end()
