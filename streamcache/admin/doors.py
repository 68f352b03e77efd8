"""Who may ask: what keeps a web page in an operator's browser from using the admin listener.

A Unix socket is guarded by its file's mode. Over TCP a browser on an operator's machine reaches us
too, whatever site it shows: so a question must name us as no stranger's page can (DNS rebinding), a
POST must say that it is JSON, which no form can, and nothing is ever allowed to another origin
(no CORS). There are no passwords: a TCP listener is for loopback, or a network of operators.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from typing import Final

from streamcache.admin.answers import JSON, Refusal

_CHANGES: Final = ("POST", "DELETE")
_OPEN: Final = ("/healthz", "/readyz", "/metrics")  # are asked by name, and tell no names


class Doors:
    """Decides about a question by its fields."""

    def __init__(self, host: str) -> None:
        """``host``: the one of the listener's address; "": a Unix socket."""
        own = socket.gethostname().lower()
        self._names = {"localhost", own, own.partition(".")[0], host.lower()}
        self._guarded = bool(host)

    def check(self, method: str, path: str, environ: Mapping[str, str]) -> None:
        """Raise Refusal for a question that is not to be answered."""
        if self._guarded and path not in _OPEN:
            self._check_host(environ.get("HTTP_HOST", ""))
        if method in _CHANGES:
            _check_origin(environ)
        if method == "POST":  # a DELETE of another origin is asked about first, and has no answer
            type_ = environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
            if type_ != JSON:
                raise Refusal(415, f"a {method} needs the field Content-Type: {JSON}")

    def _check_host(self, host: str) -> None:
        name = host_of(host)
        if name in self._names:
            return
        try:
            ipaddress.ip_address(name)
        except ValueError:
            raise Refusal(
                403,
                f"Host {host!r} is not a name of this listener; use its IP address, localhost or"
                " the name that server.admin has",
            ) from None


def host_of(field: str) -> str:
    """The name in a Host field, without port and brackets."""
    if field.startswith("["):
        return field[1:].partition("]")[0]
    return field.partition(":")[0].lower()


def _check_origin(environ: Mapping[str, str]) -> None:
    origin, host = environ.get("HTTP_ORIGIN"), environ.get("HTTP_HOST", "")
    if origin is not None and origin.lower() != f"http://{host.lower()}":
        raise Refusal(403, f"Origin {origin!r} is another site")
    if environ.get("HTTP_SEC_FETCH_SITE", "none") not in ("same-origin", "none"):
        raise Refusal(403, "another site asks")
