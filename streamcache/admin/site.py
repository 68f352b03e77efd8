"""The admin listener of one worker: all that can be asked, on the shared socket and on its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.resources import files

from streamcache.admin.answers import Answer
from streamcache.admin.doors import Doors
from streamcache.admin.entries import Entries
from streamcache.admin.listener import Listener
from streamcache.admin.metrics import Metrics
from streamcache.admin.page import Page
from streamcache.admin.purge import Purge
from streamcache.admin.routes import Routes
from streamcache.admin.sessions import Sessions
from streamcache.admin.sockets import Sockets, listen_alone
from streamcache.admin.status import Status
from streamcache.admin.subject import Subject
from streamcache.admin.warm import Warm


@contextmanager
def answering(sockets: Sockets, subject: Subject) -> Iterator[None]:
    """Answer questions about ``subject``. Switches at the end."""
    with ExitStack() as stack:
        own = listen_alone(sockets.path_of(subject.name))
        for sock, doors in ((own, Doors("")), (sockets.listener, Doors(sockets.address.host))):
            listener = Listener(sock, routes_of(doors, subject))
            listener.start()
            stack.callback(listener.stop)
        yield


def routes_of(doors: Doors, subject: Subject) -> Routes:
    """All that can be asked about it."""
    description = (files("streamcache") / "admin" / "openapi.json").read_bytes()
    routes = Routes(doors)
    sessions = Sessions(subject)
    routes.add("GET", "/api/openapi.json", lambda _: Answer(description))
    sessions.add_to(routes)
    Status(subject).add_to(routes)
    Entries(subject, sessions).add_to(routes)
    Purge(subject).add_to(routes)
    Warm(subject).add_to(routes)
    Metrics(subject).add_to(routes)
    Page().add_to(routes)
    return routes
