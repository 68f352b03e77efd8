"""Request targets (RFC 9112 3.2) to paths, and the authorities in them and in Host."""

from __future__ import annotations

import ipaddress
import re
import string

from streamcache.http.syntax import BadRequest

_UNRESERVED = string.ascii_letters + string.digits + "-._~"
_SUB_DELIMS = "!$&'()*+,;="
# RFC 3986 3.3, plus the four that browsers send bare in a path: "film [1080p].mkv" is a common
# name. Anything else that is not a URI's is refused (RFC 9112 3.2), "#" with it.
_PATH = _UNRESERVED + _SUB_DELIMS + "%:@/" + "[]|^"
# Likewise, in a query. It is not decoded, so its escapes are not looked at either.
_QUERY = _PATH + "?{}`\\"

_HEX = string.hexdigits
_SLASH = b"%2F"  # an escaped one stays what it is
_ESCAPES = {a + b: bytes([int(a + b, 16)]) for a in _HEX for b in _HEX}

_AUTHORITY = re.compile(
    r"(?:\[(?P<ip>[0-9A-Fa-f:.]+)\]"
    r"|\[[Vv][0-9A-Fa-f]+\.[A-Za-z0-9\-._~!$&'()*+,;=:]+\]"
    r"|(?P<name>(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})*))"
    r"(?::(?P<port>[0-9]*))?"
)


def is_authority(text: str) -> bool:
    """Whether the text is ``uri-host [ ":" port ]`` (RFC 9110 7.2); the host may be empty."""
    return _match_authority(text) is not None


def authority_of(target: str) -> str:
    """The authority of a target in absolute-form, which takes the place of Host (RFC 9112 3.2.2).

    "" for a target in another form. The target is one that ``resolve`` takes.
    """
    if target.startswith("/"):
        return ""
    _, mark, rest = target.partition("://")
    return rest[: _end_of_authority(rest)] if mark else ""


def resolve(method: str, target: str, own_scheme: str = "http") -> str:
    """The path that a request target names (see ``Request.path``).

    ``own_scheme``: of the connection, "https" over TLS.

    Raises BadRequest: 400 for a target that is malformed, that its method does not allow or that
    leads out of the root; 421 for a resource of the other scheme (RFC 9110 7.4).
    """
    if method == "CONNECT":
        _check_tunnel(target)
        return ""
    if target.startswith("/"):
        return _path(target)
    if target == "*":
        if method == "OPTIONS":
            return ""
        raise BadRequest(400, "asterisk-form without OPTIONS")  # RFC 9112 3.2.4
    scheme, mark, rest = target.partition("://")
    if not mark:
        raise BadRequest(400, "request target in no known form")
    return _absolute(method, scheme.lower(), rest, own_scheme)


def _absolute(method: str, scheme: str, rest: str, own_scheme: str) -> str:
    # RFC 9112 3.2.2. The authority takes the place of Host; we serve all names alike
    cut = _end_of_authority(rest)
    match = _match_authority(rest[:cut])
    # RFC 9110 4.2.1: no empty host; 4.2.4: user information is treated as an error
    if match is None or not (match["name"] or rest.startswith("[")):
        raise BadRequest(400, "invalid authority")
    if scheme not in ("http", "https"):
        raise BadRequest(400, "unknown scheme")
    if scheme != own_scheme:
        raise BadRequest(421, "resource of another scheme than the connection's")
    if method == "OPTIONS" and cut == len(rest):
        return ""  # RFC 9112 3.2.4: what the last proxy makes "OPTIONS *" of
    path = rest[cut:]
    return _path(path if path.startswith("/") else "/" + path)


def _end_of_authority(rest: str) -> int:
    return min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))


def _check_tunnel(target: str) -> None:
    # RFC 9112 3.2.3: authority-form only, with a port
    match = _match_authority(target)
    if match is None or not match["port"] or not (match["name"] or target.startswith("[")):
        raise BadRequest(400, "CONNECT without an authority")


def _match_authority(text: str) -> re.Match[str] | None:
    match = _AUTHORITY.fullmatch(text)
    if match is not None and match["ip"] is not None:
        try:
            ipaddress.IPv6Address(match["ip"])
        except ValueError:
            return None
    return match


def _path(target: str) -> str:
    """Decode and resolve a target in origin-form, query and all."""
    path, _, query = target.partition("?")
    if path.strip(_PATH) or query.strip(_QUERY):
        raise BadRequest(400, "character that no request target has")
    if "%" not in path and "//" not in path and "/." not in path:
        return path
    resolved: list[str] = []
    segment = ""
    # Never another segment, which "..%2f" could lead out by. No file name has one: as a path with a
    # slash at its end it is one of no file (404), and the connection goes on.
    slashed = "%2F" in path or "%2f" in path
    for escaped in path[1:].split("/"):
        segment = _decode(escaped) if "%" in escaped else escaped
        if segment == "..":
            if not resolved:
                raise BadRequest(400, "path leaves the root")
            resolved.pop()
        elif segment not in ("", "."):
            resolved.append(segment)
    slash = "/" if resolved and (slashed or segment in ("", ".", "..")) else ""
    return "/" + "/".join(resolved) + slash


def _decode(segment: str) -> str:
    """Decode one segment's escapes, once (RFC 3986 2.4)."""
    first, *rest = segment.split("%")
    octets = bytearray(first.encode("ascii"))
    for piece in rest:
        octet = _ESCAPES.get(piece[:2])
        if octet is None:
            raise BadRequest(400, "malformed escape")
        if octet == b"\0":
            raise BadRequest(400, "NUL in the path")
        if octet == b"/":
            octet = _SLASH
        octets += octet
        octets += piece[2:].encode("ascii")
    return octets.decode("utf-8", "surrogateescape")
