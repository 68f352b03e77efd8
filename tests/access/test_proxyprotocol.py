"""Headers of the PROXY protocol, whole and byte by byte."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcache.access.networks import UNIX, UNKNOWN, read_host
from streamcache.access.proxyprotocol import (
    MAX_V1,
    MAX_V2,
    Origin,
    ProxyError,
    ProxyHeader,
    crc32c,
    read_proxy_header,
)

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
PORTS = ["65536", "01", "-1", "+1", "1_0", "a", "", "000000", "999999", "\u00b9"]
NEXT = b"GET / HTTP/1.1\r\n"


def v2(command: int = 0x21, family: int = 0x11, body: bytes = b"") -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


def inet(source: str, port: int, details: bytes = b"") -> bytes:
    first = ipaddress.ip_address(source).packed
    return first + bytes(len(first)) + struct.pack("!HH", port, 80) + details


def detail(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def read(data: bytes) -> ProxyHeader | None:
    """The header; the same however the bytes come, and none of what follows belongs to it."""
    whole = read_proxy_header(data)
    by_byte = None
    for size in range(len(data) + 1):
        by_byte = read_proxy_header(data[:size])
        if by_byte is not None:
            assert size == by_byte.size
            break
    assert whole == by_byte
    if whole is not None:
        assert read_proxy_header(data + NEXT) == whole
    return whole


@pytest.mark.parametrize(
    ("line", "source", "port"),
    [
        ("PROXY TCP4 203.0.113.9 192.0.2.1 4711 80", "203.0.113.9", 4711),
        ("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535", "255.255.255.255", 65535),
        ("PROXY TCP4 0.0.0.0 0.0.0.0 0 0", "0.0.0.0", 0),
        ("PROXY TCP6 2001:db8::1 2001:db8::2 1 2", "2001:db8::1", 1),
        ("PROXY TCP6 ::ffff:203.0.113.9 ::1 1 2", "203.0.113.9", 1),
        (
            f"PROXY TCP6 {'ffff:' * 7}ffff {'ffff:' * 7}ffff 65535 65535",
            f"{'ffff:' * 7}ffff",
            65535,
        ),
    ],
)
def test_lines_of_version_1(line: str, source: str, port: int) -> None:
    data = line.encode() + b"\r\n"
    assert read(data) == ProxyHeader(len(data), Origin.CLIENT, read_host(source), port)


@pytest.mark.parametrize(
    "rest", [b"", b" ", b" rubbish \xff\0 \r \n", b" TCP4 1.2.3.4 1.2.3.4 1 2"]
)
def test_version_1_may_know_nobody(rest: bytes) -> None:
    data = b"PROXY UNKNOWN" + rest + b"\r\n"
    assert read(data) == ProxyHeader(len(data), Origin.UNKNOWN, UNKNOWN)


@pytest.mark.parametrize(
    "line",
    [
        "PROXY ",
        "PROXY  TCP4 1.2.3.4 1.2.3.4 1 2",
        "PROXY TCP4",
        "PROXY TCP5 1.2.3.4 1.2.3.4 1 2",
        "PROXY tcp4 1.2.3.4 1.2.3.4 1 2",
        "PROXY UDP4 1.2.3.4 1.2.3.4 1 2",
        "PROXY UNKNOWNN",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 ",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1",
        "PROXY unknown",
        "PROXY TCP4 ::1 ::1 1 2",
        "PROXY TCP6 1.2.3.4 1.2.3.4 1 2",
        "PROXY TCP4 1.2.3 1.2.3.4 1 2",
        "PROXY TCP4 1.2.3.04 1.2.3.4 1 2",
        "PROXY TCP4 1.2.3.4 1.2.3.256 1 2",
        "PROXY TCP6 fe80::1%1 ::1 1 2",
        "PROXY TCP4 unix unix 1 2",
        "PROXY TCP6 unix: unix: 1 2",
        *(f"PROXY TCP4 1.2.3.4 1.2.3.4 {port} 1" for port in PORTS),
        *(f"PROXY TCP4 1.2.3.4 1.2.3.4 1 {port}" for port in PORTS),
    ],
)
def test_a_malformed_line_is_refused(line: str) -> None:
    with pytest.raises(ProxyError):
        read_proxy_header(line.encode("latin-1") + b"\r\n")


def test_a_line_is_bounded() -> None:
    line = b"PROXY UNKNOWN ".ljust(MAX_V1 - 2, b"x")
    assert read(line + b"\r\n").size == MAX_V1
    assert read_proxy_header(line + b"x") is None
    for rest in (b"xx", b"x\r\n"):
        with pytest.raises(ProxyError):
            read_proxy_header(line + rest)


@pytest.mark.parametrize("data", [NEXT, b"\0", b"proxy TCP4", b"PROXYTCP", b"\r\n\r\n\r\n", b"\n"])
def test_anything_else_is_refused_at_its_first_wrong_byte(data: bytes) -> None:
    wrong = next(
        size
        for size in range(1, len(data) + 1)
        if not any(begin.startswith(data[:size]) for begin in (b"PROXY ", SIGNATURE))
    )
    assert read_proxy_header(data[: wrong - 1]) is None
    with pytest.raises(ProxyError):
        read_proxy_header(data[:wrong])


@pytest.mark.parametrize("family", [0x11, 0x12, 0x21, 0x22])
@pytest.mark.parametrize("details", [b"", detail(0x04, b""), detail(0x01, b"h2") * 20])
def test_addresses_of_version_2(family: int, details: bytes) -> None:
    source = "203.0.113.9" if family < 0x20 else "2001:db8::1"
    data = v2(family=family, body=inet(source, 4711, details))
    assert read(data) == ProxyHeader(len(data), Origin.CLIENT, read_host(source), 4711)


def test_version_2_maps_addresses_and_knows_unix_sockets() -> None:
    assert read(v2(family=0x21, body=inet("::ffff:1.2.3.4", 1))).source == read_host("1.2.3.4")
    data = v2(family=0x31, body=b"/run/x".ljust(216, b"\0"))
    assert read(data) == ProxyHeader(len(data), Origin.CLIENT, UNIX)


@pytest.mark.parametrize("family", [0x00, 0x11, 0x99])
@pytest.mark.parametrize("body", [b"", b"\1", bytes(300)])
def test_a_local_connection_says_nothing(family: int, body: bytes) -> None:
    data = v2(0x20, family, body)
    assert read(data) == ProxyHeader(len(data), Origin.LOCAL)


def test_version_2_may_know_nobody() -> None:
    assert read(v2(family=0, body=b"rubbish")) == ProxyHeader(23, Origin.UNKNOWN)


@pytest.mark.parametrize(
    "data",
    [
        *(v2(command, body=inet("1.2.3.4", 1)) for command in (0x11, 0x31, 0x22, 0x2F, 0x01, 0xFF)),
        *(v2(family=family, body=bytes(300)) for family in (0x01, 0x10, 0x13, 0x20, 0x41, 0xFF)),
        v2(body=bytes(11)),
        v2(family=0x21, body=bytes(35)),
        v2(family=0x31, body=bytes(215)),
        v2(body=inet("1.2.3.4", 1, b"\4")),
        v2(body=inet("1.2.3.4", 1, b"\4\0")),
        v2(body=inet("1.2.3.4", 1, b"\4\0\1")),
        v2(body=inet("1.2.3.4", 1, detail(1, b"h2") + b"\4\xff\xff")),
        v2(body=inet("1.2.3.4", 1, detail(3, b"abc"))),
        v2(body=inet("1.2.3.4", 1, detail(3, b"abcd"))),
        v2(body=bytes(MAX_V2 - 15)),
    ],
)
def test_a_malformed_header_of_version_2_is_refused(data: bytes) -> None:
    with pytest.raises(ProxyError):
        read_proxy_header(data)


def test_what_is_too_long_is_refused_before_it_comes() -> None:
    with pytest.raises(ProxyError):
        read_proxy_header(SIGNATURE + b"\x21\x11\xff\xff")


def test_a_checksum_is_checked() -> None:
    data = v2(body=inet("1.2.3.4", 1, detail(1, b"h2") + detail(3, bytes(4)) + detail(4, b"--")))
    at = data.index(detail(3, bytes(4))) + 3
    right = data[:at] + crc32c(data).to_bytes(4, "big") + data[at + 4 :]
    assert read(right).source == read_host("1.2.3.4")
    # Addresses and ports, the values of all three details: not what says where details begin.
    for place in (*range(16, 28), 31, 32, *range(36, 40), 43, 44):
        with pytest.raises(ProxyError):
            wrong = bytearray(right)
            wrong[place] ^= 1
            read_proxy_header(bytes(wrong))


def test_crc32c_is_that_of_the_rfc() -> None:
    # RFC 3720 B.4
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


@given(
    source=st.ip_addresses(),
    port=st.integers(0, 65535),
    details=st.lists(st.tuples(st.integers(0, 255).filter(lambda kind: kind != 3), st.binary())),
)
def test_what_was_written_is_read(source, port: int, details: list[tuple[int, bytes]]) -> None:
    body = inet(str(source), port, b"".join(detail(*one) for one in details))
    family = 0x11 if source.version == 4 else 0x21
    found = read(v2(family=family, body=body))
    assert (found.origin, found.source, found.port) == (
        Origin.CLIENT,
        read_host(str(source)),
        port,
    )
    line = f"PROXY TCP{source.version} {source} {source} {port} 80\r\n".encode()
    assert read(line).source == found.source
