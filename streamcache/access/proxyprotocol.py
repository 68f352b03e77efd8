"""The PROXY protocol, versions 1 and 2: who is behind a proxy that forwards connections.

https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt. The header is the first thing on a
connection. Where it is switched on it must be there (the specification forbids to guess), and only
from trusted proxies.
"""

from __future__ import annotations

import enum
import ipaddress
import struct
from dataclasses import dataclass
from typing import Final

from streamcache.access.networks import UNIX, UNKNOWN, Host, read_host
from streamcache.errors import StreamCacheError

MAX_V1: Final = 107  # bytes, its CRLF with it (section 2.1)
MAX_V2: Final = 16 + 4096  # bytes; addresses and certificate details of real proxies need 1 KiB

_V1: Final = b"PROXY "
_V2: Final = b"\r\n\r\n\0\r\nQUIT\n"
_ADDRESSES: Final = {0x1: 4, 0x2: 16, 0x3: 108}  # bytes of one address, by family
_FAMILIES: Final = frozenset((0x00, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32))
_CRC32C: Final = 0x03  # a TLV's type
_MAX_PORT: Final = 65535


class ProxyError(StreamCacheError):
    """What came is no PROXY header; the connection is closed without an answer.

    The message is a fixed phrase for the log and never holds a byte of what came.
    """


class Origin(enum.Enum):
    """Whose connection it is."""

    CLIENT = enum.auto()  # forwarded: ``source`` is the client
    LOCAL = enum.auto()  # the proxy's own, a health check: the peer is the client
    UNKNOWN = enum.auto()  # forwarded for somebody the proxy does not name: ``source`` is UNKNOWN


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """A whole header: ``size`` bytes of the connection; the request begins after them."""

    size: int
    origin: Origin
    source: Host = UNKNOWN
    port: int = 0  # 0: a Unix socket has none


def read_proxy_header(received: bytes) -> ProxyHeader | None:
    """The header at the start of all the bytes that were received; None: more are needed.

    Raises ProxyError as soon as they can no longer become one: never more than ``MAX_V2`` bytes
    need be kept. A call looks at 107 bytes at most until all are there, so feeding single bytes
    is cheap.
    """
    if received[: len(_V2)] == _V2[: len(received)]:
        return _read_v2(received)
    if received[: len(_V1)] == _V1[: len(received)]:
        return _read_v1(received)
    raise ProxyError("no PROXY header")


def _read_v1(received: bytes) -> ProxyHeader | None:
    end = received.find(b"\r\n", 0, MAX_V1)
    if end < 0:
        if len(received) >= MAX_V1:
            raise ProxyError("PROXY line too long")
        return None
    try:
        words = received[:end].decode("ascii").split(" ")
    except ValueError:
        if received[:end].startswith(b"PROXY UNKNOWN "):
            words = ["PROXY", "UNKNOWN"]
        else:
            raise ProxyError("malformed PROXY line") from None
    if words[1] == "UNKNOWN":
        return ProxyHeader(end + 2, Origin.UNKNOWN)  # what follows is ignored (section 2.1)
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6"):
        raise ProxyError("malformed PROXY line")
    version = int(words[1][3])
    source = _address(words[2], version)
    _address(words[3], version)
    port, _ = _port(words[4]), _port(words[5])
    return ProxyHeader(end + 2, Origin.CLIENT, source, port)


def _address(text: str, version: int) -> Host:
    if "%" in text:
        raise ProxyError("malformed address in a PROXY line")
    try:
        if version == 4:
            return ipaddress.IPv4Address(text)
        return read_host(str(ipaddress.IPv6Address(text)))
    except ValueError:
        raise ProxyError("malformed address in a PROXY line") from None


def _port(text: str) -> int:
    if not text.isdigit() or len(text) > 5 or (text != "0" and text.startswith("0")):
        raise ProxyError("malformed port in a PROXY line")
    port = int(text)
    if port > _MAX_PORT:
        raise ProxyError("malformed port in a PROXY line")
    return port


def _read_v2(received: bytes) -> ProxyHeader | None:
    if len(received) < 13:
        return None
    version, command = divmod(received[12], 16)
    if version != 2 or command > 1:
        raise ProxyError("unknown version or command of the PROXY protocol")
    if len(received) < 16:
        return None
    size = 16 + int.from_bytes(received[14:16], "big")
    if size > MAX_V2:
        raise ProxyError("PROXY header too long")
    if len(received) < size:
        return None
    if command == 0:
        return ProxyHeader(size, Origin.LOCAL)  # family and addresses are ignored (section 2.2)
    family = received[13]
    if family not in _FAMILIES:
        raise ProxyError("unknown address family in a PROXY header")
    width = _ADDRESSES.get(family >> 4, 0)
    if not width:
        return ProxyHeader(size, Origin.UNKNOWN)
    # Two addresses, and two ports unless they are of Unix sockets.
    rest = 16 + 2 * width + (0 if width == 108 else 4)
    if rest > size:
        raise ProxyError("PROXY header too short for its addresses")
    _check_details(received[:size], rest)
    if width == 108:
        return ProxyHeader(size, Origin.CLIENT, UNIX)
    raw = received[16 : 16 + width]
    address = ipaddress.IPv4Address(raw) if width == 4 else ipaddress.IPv6Address(raw)
    (port,) = struct.unpack_from("!H", received, 16 + 2 * width)
    return ProxyHeader(size, Origin.CLIENT, read_host(str(address)), port)


def _check_details(header: bytes, position: int) -> None:
    """Walk the type-length-value triples; their values are skipped, but for a checksum."""
    checked = False
    while position < len(header):
        if position + 3 > len(header):
            raise ProxyError("malformed detail in a PROXY header")
        kind, length = struct.unpack_from("!BH", header, position)
        start, position = position + 3, position + 3 + length
        if position > len(header):
            raise ProxyError("malformed detail in a PROXY header")
        if kind == _CRC32C:
            if length != 4 or checked:
                raise ProxyError("malformed checksum in a PROXY header")
            checked = True
            zeroed = header[:start] + bytes(4) + header[position:]
            if crc32c(zeroed) != int.from_bytes(header[start:position], "big"):
                raise ProxyError("wrong checksum in a PROXY header")


def crc32c(data: bytes) -> int:
    """The checksum of RFC 3720 B.4 (Castagnoli)."""
    remainder = 0xFFFFFFFF
    for byte in data:
        remainder = _TABLE[(remainder ^ byte) & 0xFF] ^ (remainder >> 8)
    return remainder ^ 0xFFFFFFFF


def _entry(remainder: int) -> int:
    for _ in range(8):
        remainder = (remainder >> 1) ^ (0x82F63B78 if remainder & 1 else 0)
    return remainder


_TABLE: Final = tuple(map(_entry, range(256)))
