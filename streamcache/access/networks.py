"""Clients by address: lists of networks, and the client's address behind trusted proxies."""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

MAX_HOPS: Final = 32  # trusted addresses of one X-Forwarded-For; nobody has so many proxies
_SHOWN: Final = 80  # characters of an entry in a message

FORMS: Final = (
    "an address (192.0.2.1, 2001:db8::1), a network (192.0.2.0/24, 2001:db8::/32) or unix"
)


class Special(enum.Enum):
    """A client that has no IP address."""

    UNIX = "unix"  # connected to a Unix socket
    UNKNOWN = "unknown"  # behind a proxy that could not or would not say


UNIX: Final = Special.UNIX
UNKNOWN: Final = Special.UNKNOWN
Host = ipaddress.IPv4Address | ipaddress.IPv6Address | Special


def read_host(text: str) -> Host:
    """The client that an address stands for, as the system or a proxy writes it.

    "unix" is one too. An IPv4 address mapped into IPv6 (::ffff:192.0.2.1) is the IPv4 address, and
    the zone of a link-local one (fe80::1%eth0) says nothing about the client. Raises ValueError.
    """
    if text == "unix":
        return UNIX
    address = ipaddress.ip_address(text.partition("%")[0] if ":" in text else text)
    return _unmapped(address)


def entries(text: str) -> tuple[str, ...]:
    """The entries of an option's value: with commas between them, as "allow unix, deny all"."""
    return tuple(entry.strip() for entry in text.split(",")) if text.strip() else ()


@dataclass(frozen=True, slots=True)
class Network:
    """Addresses with equal first bits; ``version`` 0 is the clients of Unix sockets."""

    version: int
    first: int = 0
    mask: int = 0

    def __contains__(self, host: Host) -> bool:
        if isinstance(host, Special):
            return host is UNIX and self.version == 0
        return self.version == host.version and int(host) & self.mask == self.first

    @classmethod
    def parse(cls, text: str) -> Network:
        """Read one of ``FORMS``; ValueError that names the text."""
        if text == "unix":
            return cls(0)
        # ipaddress reads "10.0.0.0/255.0.0.0" and even "/0.255.255.255", in which people err
        _, slash, length = text.partition("/")
        digits = length.isascii() and length.isdigit() and len(length) <= 3
        if "%" in text or (slash and not digits):
            raise ValueError(f"{_shown(text)} is no network; allowed: {FORMS}")
        try:
            network = ipaddress.ip_network(text)
        except ValueError:
            raise ValueError(_why_not(text)) from None
        first, bits = network.network_address, network.prefixlen
        found = _unmapped(first)
        if found.version != first.version and bits < 96:
            found = first  # wider than all of IPv4: a network of IPv6
        bits -= 96 if found.version != first.version else 0
        width = found.max_prefixlen
        return cls(found.version, int(found), (1 << width) - (1 << (width - bits)))


@dataclass(frozen=True, slots=True)
class Rules:
    """An ordered list of "allow WHOM" and "deny WHOM"; the first that fits decides.

    When none fits: if the list allows anybody, it is a list of guests and all others are denied;
    a list that only denies lets everybody else in. So no list lets in more than it says.
    """

    rules: tuple[tuple[bool, Network | None], ...] = ()  # allow?, whom (None: all)

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Rules:
        """Read "allow 192.0.2.0/24", "deny all" ...; ValueError that names the entry."""
        rules: list[tuple[bool, Network | None]] = []
        for entry in texts:
            words = entry.split()
            if len(words) != 2 or words[0] not in ("allow", "deny"):
                raise ValueError(
                    f"{_shown(entry)} is no rule; allowed: allow or deny, and all or {FORMS}"
                )
            try:
                whom = None if words[1] == "all" else Network.parse(words[1])
            except ValueError as error:
                raise ValueError(f"{_shown(entry)}: {error}") from None
            rules.append((words[0] == "allow", whom))
        return cls(tuple(rules))

    def allow(self, host: Host) -> bool:
        """Whether this client may come in."""
        for allowed, whom in self.rules:
            if whom is None or host in whom:
                return allowed
        return not any(allowed for allowed, _ in self.rules)


@dataclass(frozen=True, slots=True)
class TrustedProxies:
    """Whose word about the client's address counts.

    Only X-Forwarded-For is read. Forwarded (RFC 7239) is not: a proxy adds to the one that it
    knows and passes the other on as the client wrote it, so reading both is believing clients.
    """

    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, texts: Iterable[str]) -> TrustedProxies:
        """Read addresses, networks and "unix"; ValueError that names the entry."""
        return cls(tuple(Network.parse(entry.strip()) for entry in texts))

    def trusts(self, host: Host) -> bool:
        """Whether this is one of our proxies."""
        return any(host in network for network in self.networks)

    def client(self, peer: Host, forwarded_for: Sequence[str]) -> Host:
        """Who is behind this peer: the values of X-Forwarded-For are read from right to left.

        Each trusted hop vouches for the address before its own; the first that is not trusted is
        the client, and what it wrote itself (further left) is not looked at. UNKNOWN when a
        trusted hop names something that is no address: never the proxy's own address, which may
        be let in where its clients are not.
        """
        client = peer
        if not self.trusts(client):
            return client
        hops = 0
        for value in reversed(forwarded_for):
            for member in reversed(value.split(",")):
                text = member.strip(" \t")
                if not text:
                    continue  # RFC 9110 5.6.1.2: an empty member is none
                hops += 1
                try:
                    client = _forwarded_host(text)
                except ValueError:
                    return UNKNOWN
                if not self.trusts(client):
                    return client
                if hops == MAX_HOPS:
                    return UNKNOWN
        return client


def _forwarded_host(text: str) -> Host:
    """An address of X-Forwarded-For; some proxies put brackets around it or a port behind it."""
    if text.startswith("["):
        address, bracket, port = text[1:].partition("]")
        if not bracket or (port and not _is_port(port)) or ":" not in address:
            raise ValueError("no address")
        return _unmapped(ipaddress.IPv6Address(address))
    if text.count(":") == 1:
        address, _, port = text.partition(":")
        if not _is_port(":" + port):
            raise ValueError("no address")
        return ipaddress.IPv4Address(address)
    if "%" in text:
        raise ValueError("no address")
    return _unmapped(ipaddress.ip_address(text))


def _is_port(text: str) -> bool:
    digits = text[1:]
    return text[:1] == ":" and digits.isascii() and digits.isdigit() and len(digits) <= 5


def _unmapped(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _why_not(text: str) -> str:
    try:
        meant = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return f"{_shown(text)} is no network; allowed: {FORMS}"
    return f"{_shown(text)} has bits beyond its length; write {meant}, or the address alone"


def _shown(text: str) -> str:
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}..."
