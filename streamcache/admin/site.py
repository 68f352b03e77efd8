"""The admin listener of one worker: all that can be asked, on the shared socket and on its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from streamcache.admin.doors import Doors
from streamcache.admin.listener import Listener
from streamcache.admin.metrics import Metrics
from streamcache.admin.routes import Routes
from streamcache.admin.sockets import Sockets, listen_alone
from streamcache.admin.status import Status
from streamcache.admin.subject import Subject

log = logging.getLogger(__name__)


@contextmanager
def answering(sockets: Sockets, subject: Subject) -> Iterator[None]:
    """Answer questions about ``subject``. Switches at the end."""
    with ExitStack() as stack:
        own = listen_alone(sockets.path_of(subject.name))
        for sock, doors in ((own, Doors("")), (sockets.listener, Doors(sockets.address.host))):
            listener = Listener(sock, _routes(doors, subject))
            listener.start()
            stack.callback(listener.stop)
        yield


def _routes(doors: Doors, subject: Subject) -> Routes:
    routes = Routes(doors)
    Status(subject).add_to(routes)
    Metrics(subject).add_to(routes)
    return routes
