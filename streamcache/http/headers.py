"""Field lines (RFC 9112 5) and the multi-map that they become."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from streamcache.http.syntax import BLANK, TOKEN, BadRequest

# What most field names of a request look like: spares them the check and the lowering.
_USUAL = {
    spelling: name
    for name in (
        *("accept", "accept-encoding", "accept-language", "cache-control", "connection", "cookie"),
        *("dnt", "host", "icy-metadata", "if-match", "if-modified-since", "if-none-match"),
        *("if-range", "if-unmodified-since", "origin", "pragma", "priority", "range", "referer"),
        *("sec-fetch-dest", "sec-fetch-mode", "sec-fetch-site", "upgrade-insecure-requests"),
        *("user-agent", "via", "x-forwarded-for", "x-real-ip"),
    )
    for spelling in (name, name.title())
}


class Headers:
    """The fields of one request by lower-case name, values in the order received."""

    __slots__ = ("_fields",)

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self._fields: dict[str, list[str]] = {}
        for name, value in pairs:
            self._fields.setdefault(name, []).append(value)

    def get(self, name: str) -> str | None:
        """The values of a lower-case name as one list value (RFC 9110 5.3), None when absent."""
        values = self._fields.get(name)
        if values is None:
            return None
        return values[0] if len(values) == 1 else ", ".join(values)

    def all(self, name: str) -> list[str]:
        """Every value of a lower-case name, in the order received."""
        return list(self._fields.get(name, ()))

    def members(self, name: str) -> list[str]:
        """The members of a list of tokens, in lower case, without empty ones (RFC 9110 5.6.1)."""
        values = self._fields.get(name)
        if values is None:
            return []
        members = (member.strip(BLANK).lower() for value in values for member in value.split(","))
        return [member for member in members if member]

    def __contains__(self, name: object) -> bool:
        return name in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __eq__(self, other: object) -> bool:
        return self._fields == other._fields if isinstance(other, Headers) else NotImplemented

    def __repr__(self) -> str:
        return f"<Headers {' '.join(self._fields)}>"


def parse_fields(lines: Iterable[str]) -> Headers:
    """The fields of these lines; see ``parse_field``."""
    headers = Headers()
    fields = headers._fields
    for line in lines:
        name, colon, value = line.partition(":")
        key = _USUAL.get(name)
        if key is None or not colon:
            key, value = parse_field(line)
        else:
            value = value.strip(BLANK)
        if key in fields:
            fields[key].append(value)
        else:
            fields[key] = [value]
    return headers


def parse_field(line: str) -> tuple[str, str]:
    """Split a field line, without its CRLF, into lower-case name and trimmed value (RFC 9112 5).

    Raises BadRequest(400) for a missing colon and for a name that is no token, which covers the
    blank before a colon (RFC 9112 5.1) and the line that begins with one (obs-fold, RFC 9112 5.2).
    The caller has looked for control bytes in the value.
    """
    name, colon, value = line.partition(":")
    if not colon or not name or name.strip(TOKEN):
        raise BadRequest(400, "malformed field line")
    return name.lower(), value.strip(BLANK)
