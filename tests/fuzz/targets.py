"""What is fuzzed: functions of bytes, each with an oracle. AssertionError, or an error that the
code does not announce, is a finding.

Used twice: ``bin/fuzz`` runs them under atheris for as long as one likes, ``test_targets.py`` runs
them under hypothesis in the normal suite, over the corpus and its mutations.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import hashlib
import hmac
import ipaddress
import re
import urllib.parse
from collections.abc import Callable

from streamcache.access.networks import (
    UNKNOWN,
    Rules,
    Special,
    TrustedProxies,
    read_host,
)
from streamcache.access.passwords import Credentials, read_htpasswd
from streamcache.access.proxyprotocol import (
    MAX_V1,
    MAX_V2,
    Origin,
    ProxyError,
    ProxyHeader,
    read_proxy_header,
)
from streamcache.access.signing import Keys, Outcome, redacted, sign, verify
from streamcache.cache.partial import PartialHeader
from streamcache.http.conditional import Verdict, evaluate
from streamcache.http.dates import MAX_DATE, MIN_DATE, format_date, parse_date
from streamcache.http.entity import Entity
from streamcache.http.headers import Headers
from streamcache.http.ranges import UNSATISFIABLE, parse_range
from streamcache.http.request import BadRequest, parse_head
from streamcache.http.target import resolve
from tests.fuzz import files
from tests.http import wire

NOW = 1_767_225_600


def head(data: bytes) -> None:
    """The parser gives the same whole, byte by byte and in threes, and what it read reads back."""
    data = data[:4096]
    requests, status = wire.read(data)
    threes = [data[at : at + 3] for at in range(0, len(data), 3)]
    again, refusal, _ = wire.read_pieces(threes)
    assert again == requests
    assert (refusal and refusal.status) == status
    assert status is None or status in (400, 408, 413, 414, 417, 421, 431, 501, 505)
    for request in requests:
        # What smuggling needs: two lengths, two hosts, a path that leaves the root.
        assert len(request.headers.all("host")) <= 1
        assert not ("content-length" in request.headers and "transfer-encoding" in request.headers)
        assert request.target.isascii() and not set(request.target) & set(" \t\r\n\0")
        assert ".." not in request.path.split("/") and "\0" not in request.path
        lines = [f"{request.method} {request.target} HTTP/1.{request.version[1]}"]
        lines += [
            f"{name}: {value}" for name in request.headers for value in request.headers.all(name)
        ]
        assert parse_head("\r\n".join(lines).encode("latin-1"), wire.LIMITS) == request


def target(data: bytes) -> None:
    """Decoding agrees with urllib's and a stack; a resolved path resolves to itself."""
    text = data.decode("latin-1")
    expected = _reference_path(text)
    try:
        path = resolve("GET", text)
    except BadRequest as refusal:
        assert refusal.status in (400, 421)
        assert not (text.startswith("/") and expected is not None)
        return
    assert path.startswith("/") and "\0" not in path and "//" not in path
    assert not {".", ".."} & set(path.split("/"))
    if text.startswith("/"):
        assert path.encode("utf-8", "surrogateescape") == expected
    quoted = urllib.parse.quote(path, safe="/", errors="surrogateescape")
    assert resolve("GET", quoted) == path


_PATH = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=%:@/\[\]|^]*")
_QUERY = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=%:@/\[\]|^?{}`\\]*")


def _reference_path(text: str) -> bytes | None:
    """The path of a target in origin-form, in the plain way; None: it has none."""
    path, _, query = text.partition("?")
    if not text.startswith("/") or not _PATH.fullmatch(path) or not _QUERY.fullmatch(query):
        return None
    if re.search("%(?![0-9A-Fa-f]{2})|%00", path):
        return None
    path, slashes = re.subn("%2[Ff]", "%252F", path)  # stays what it is; such a path is no file's
    kept: list[bytes] = []
    segment = b""
    for segment in map(urllib.parse.unquote_to_bytes, path[1:].split("/")):
        if segment == b"..":
            if not kept:
                return None
            kept.pop()
        elif segment not in (b"", b"."):
            kept.append(segment)
    ends = b"/" if kept and (slashes or segment in (b"", b".", b"..")) else b""
    return b"/" + b"/".join(kept) + ends


def ranges(data: bytes) -> None:
    """A Range's bytes are those that a plain reading of the grammar gives. First byte: the size."""
    size, value = (data[0] if data else 0), data[1:].decode("latin-1")
    found = parse_range(value, size, 8)
    assert found == _reference_ranges(value, size, 8)
    if isinstance(found, tuple):
        assert all(0 <= one.start < one.stop <= size for one in found)
        assert sum(one.length for one in found) <= size
        back = "bytes=" + ",".join(f"{one.start}-{one.stop - 1}" for one in found)
        assert parse_range(back, size, 8) == found


_RANGES = re.compile(
    r"[Bb][Yy][Tt][Ee][Ss]=(?![ \t])((?:[ \t]*(?:[0-9]+-[0-9]*|-[0-9]+)?[ \t]*(?:,|\Z))+)"
)


def _reference_ranges(value: str, size: int, most: int) -> object:
    match = _RANGES.fullmatch(value)
    specs = re.findall("([0-9]*)-([0-9]*)", match[1]) if match else []
    if not size or not specs or len(specs) > most:
        return None
    found = []
    for first, last in specs:
        # Longer numbers are all one, beyond every file.
        first, last = (str(10**18) if len(n.lstrip("0")) > 18 else n for n in (first, last))
        if first and last and int(last) < int(first):
            return None
        start = int(first) if first else max(0, size - int(last))
        stop = min(size, int(last) + 1) if first and last else size
        if start < stop:
            found.append((start, stop))
    if not found:
        return UNSATISFIABLE
    if len(found) > 1 and sum(stop - start for start, stop in found) > size:
        return None
    return _Pairs(found)


class _Pairs:
    """Equal to ranges with these bounds."""

    def __init__(self, pairs: list[tuple[int, int]]) -> None:
        self._pairs = pairs

    def __eq__(self, other: object) -> bool:
        return isinstance(other, tuple) and [(one.start, one.stop) for one in other] == self._pairs


_CONDITIONS = ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range")


def conditions(data: bytes) -> None:
    """Preconditions agree with the table of RFC 9110 13.2.2. Lines: one value of each field."""
    lines = data.decode("latin-1").split("\n")
    pairs = [(n, v.strip(" \t")) for n, v in zip(_CONDITIONS, lines, strict=False) if v]
    fields = dict(pairs)
    entity = Entity(size=5, etag='"v,1"', mtime=NOW - 100, content_type="video/mp4")
    verdict = evaluate(Headers(pairs), entity, NOW)
    assert verdict is _reference_verdict(fields, entity)
    for value in fields.values():
        seconds = parse_date(value, NOW)
        if seconds is not None and MIN_DATE <= seconds <= MAX_DATE:
            assert parse_date(format_date(seconds), NOW) == seconds
            # Before the year 1000 and at leap seconds the standard library reads otherwise.
            if re.fullmatch(r"\w{3}, \d\d \w{3} [1-9]\d{3} \d\d:\d\d:[0-5]\d GMT", value):
                assert email.utils.parsedate_to_datetime(value).timestamp() == seconds


def _reference_verdict(fields: dict[str, str], entity: Entity) -> Verdict:
    def listed(value: str, *, weak: bool) -> bool:
        tag = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
        if value == "*":
            return True
        if not re.fullmatch(rf"[ \t,]*{tag}(?:[ \t]*,[ \t,]*{tag})*[ \t]*(?:,[ \t,]*)?", value):
            return False
        tags = re.findall(tag, value)
        return entity.etag in ([t.removeprefix("W/") for t in tags] if weak else tags)

    def date(name: str) -> int | None:
        return parse_date(fields[name], NOW) if name in fields else None

    if "if-match" in fields:
        if not listed(fields["if-match"], weak=False):
            return Verdict.FAILED
    elif (since := date("if-unmodified-since")) is not None and entity.mtime > since:
        return Verdict.FAILED
    if "if-none-match" in fields:
        if listed(fields["if-none-match"], weak=True):
            return Verdict.NOT_MODIFIED
    elif (since := date("if-modified-since")) is not None and entity.mtime <= since:
        return Verdict.NOT_MODIFIED
    condition = fields.get("if-range")
    if condition in (None, entity.etag):
        return Verdict.PROCEED
    same = not condition.startswith(('"', "W/")) and date("if-range") == entity.mtime
    return Verdict.PROCEED if same else Verdict.IGNORE_RANGE


def proxy(data: bytes) -> None:
    """A PROXY header is the same however it comes, ends where it says, and reads back."""
    data = data[: MAX_V2 + 16]
    found = _proxy(data)
    for size in range(min(len(data), 300) + 1):
        early = _proxy(data[:size])
        if early is not None:
            # Decided by these bytes: what comes after changes nothing.
            assert type(early) is type(found)
            assert isinstance(early, ProxyError) or (early == found and early.size == size)
            break
        assert size < MAX_V1 or data[:1] == b"\r"
    if not isinstance(found, ProxyHeader):
        return
    assert 0 < found.size <= min(len(data), MAX_V2)
    assert _proxy(data[: found.size] + b"GET /") == found
    if found.origin is Origin.CLIENT and not isinstance(found.source, Special):
        line = f"PROXY TCP{found.source.version} {found.source} {found.source} {found.port} 1\r\n"
        back = _proxy(line.encode())
        assert isinstance(back, ProxyHeader)
        assert (back.source, back.port) == (found.source, found.port)
    if data.startswith(b"PROXY TCP4"):
        words = data[: found.size - 2].split(b" ")
        assert found.source.packed == bytes(map(int, words[2].split(b".")))
        assert found.port == int(words[4]) <= 65535


def _proxy(data: bytes) -> ProxyHeader | ProxyError | None:
    try:
        return read_proxy_header(data)
    except ProxyError as error:
        return error


_SECRET = bytes(range(32))
_KEYS = Keys({"k1": _SECRET, "k2": _SECRET[::-1]})
_GRANT = re.compile(
    r"(f|0|[1-9]\d{0,2})\.(0|[1-9]\d{0,11})\.(k[12])\.([A-Za-z0-9_-]{43})", re.ASCII
)


def grant(data: bytes) -> None:
    """A grant is good exactly when its signature is the one that the documented text has.

    A target; "SIGNATURE" in it stands for the right one, so that there is a way through.
    """
    text = data.decode("latin-1")
    with contextlib.suppress(BadRequest):
        text = _with_signature(text)
        path = resolve("GET", text)
        found = verify(_KEYS, path, text, NOW)
        expected = _reference_grant(path, text)
        assert (found.outcome, found.path) == expected
        shown = redacted(text)
        if found.outcome in (Outcome.OK, Outcome.EXPIRED):
            _, (good,) = _grants(path, text)
            assert good.rpartition(".")[2] not in shown
        if found.outcome is Outcome.OK and not (
            found.path.endswith("/") or found.path.startswith("/grant=")
        ):
            # It is a grant for this path: another one for it is good as well, for a sibling not.
            own = sign(_KEYS, found.path, NOW + 1)
            assert verify(_KEYS, found.path, f"/?grant={own}", NOW).outcome is Outcome.OK
            assert verify(_KEYS, found.path + "x", f"/?grant={own}", NOW).outcome is Outcome.BAD


def _grants(path: str, text: str) -> tuple[str, list[str]]:
    query = text.split("?", 1)[1] if "?" in text else ""
    found = [pair[6:] for pair in query.split("&") if pair.startswith("grant=")]
    if path.startswith("/grant="):
        first, _, rest = path[7:].partition("/")
        found.append(first)
        path = "/" + rest
    return path, found


def _right(path: str, scope: str, expires: str, name: str) -> str:
    if scope != "f":
        segments = path.split("/")
        if len(segments) < int(scope) + 2:
            return ""
        path = "/".join(segments[: int(scope) + 1]) + "/"
    signed = "\n".join(("streamcache grant 1", scope, expires, name, path))
    secret = _KEYS.secrets[name]
    digest = hmac.new(secret, signed.encode("utf-8", "surrogateescape"), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _with_signature(text: str) -> str:
    fields = re.search(r"grant=(f|\d{1,3})\.(\d{1,12})\.(k[12])\.SIGNATURE", text, re.ASCII)
    if fields is None:
        return text
    path, _ = _grants(resolve("GET", text), text)
    start = fields.end() - len("SIGNATURE")
    return text[:start] + _right(path, *fields.groups()) + text[fields.end() :]


def _reference_grant(path: str, text: str) -> tuple[Outcome, str]:
    path, found = _grants(path, text)
    if not found:
        return Outcome.MISSING, path
    match = _GRANT.fullmatch(found[0]) if len(found) == 1 else None
    if match is None or match[4] != _right(path, match[1], match[2], match[3]):
        return Outcome.BAD, path
    return (Outcome.OK if int(match[2]) > NOW else Outcome.EXPIRED), path


_FILE_ERROR = re.compile(
    r"no key in it; a line is an id and hexadecimal digits"
    r"|line \d+: (?:not a [a-z ,()0-9-]+(?:-B -C 12\))?"
    r"|cost \d+; allowed: 4 to 16|a (?:second|key) [a-z ,_0-9-]+|\d+ bytes; allowed: 32 to 1024.*)"
)


def secrets(data: bytes) -> None:
    """htpasswd and key files: what is read reads back, and an error tells nothing of a secret."""
    for read, write in (
        (read_htpasswd, lambda user, value: user + b":" + value),
        (lambda text: Keys.parse(text).secrets, lambda n, v: f"{n} {v.hex()}".encode()),
    ):
        try:
            found = read(data)
        except ValueError as error:
            assert _FILE_ERROR.fullmatch(str(error)), str(error)
            continue
        assert read(b"\n".join(write(*pair) for pair in found.items()) + b"\n# x\n") == found
    value = "Basic " + base64.b64encode(data).decode()
    credentials = Credentials.parse(value)
    if credentials is not None:
        assert credentials.user + b":" + credentials.password == data
        assert b":" not in credentials.user
    Credentials.parse(data.decode("latin-1"))


def networks(data: bytes) -> None:
    """Lists agree with ipaddress's networks; whoever is behind proxies is named by a trusted hop.

    Lines: the client, X-Forwarded-For, then rules. 10.0.0.0/8 is trusted.
    """
    lines = data.decode("latin-1").split("\n")
    who, forwarded, entries = lines[0], lines[1:2], lines[2:]
    try:
        host = read_host(who)
    except ValueError:
        host = UNKNOWN
    proxies = TrustedProxies.parse(["10.0.0.0/8"])
    client = proxies.client(host, forwarded)
    trusted = ipaddress.ip_network("10.0.0.0/8")
    if isinstance(host, Special) or host not in trusted:
        assert client is host
    elif client is not UNKNOWN and client != host:
        # Everything to the right of the client is a hop of ours.
        members = [member.strip(" \t") for member in forwarded[0].split(",")]
        hops = []
        for member in reversed([member for member in members if member]):
            hops.append(_loosely(member))
            if hops[-1] not in trusted:
                break
        assert hops[-1] == client
        assert all(hop in trusted for hop in hops[:-1])
    try:
        rules = Rules.parse(entries)
    except ValueError as error:
        assert any(repr(text) in str(error) for entry in entries for text in (entry, entry[:80]))
        return
    assert rules.allow(client) is _reference_allow(entries, client)


def _loosely(member: str) -> object:
    if member.startswith("["):
        member = member[1 : member.index("]")]
    elif member.count(":") == 1:
        member = member.partition(":")[0]
    address = ipaddress.ip_address(member)
    return getattr(address, "ipv4_mapped", None) or address


def _reference_allow(entries: list[str], client: object) -> bool:
    for entry in entries:
        verb, whom = entry.split()
        if whom == "all" or (whom == "unix" and getattr(client, "value", "") == "unix"):
            return verb == "allow"
        if whom == "unix" or isinstance(client, Special):
            continue
        network = ipaddress.ip_network(whom)
        mapped = getattr(network.network_address, "ipv4_mapped", None)
        if mapped is not None and network.prefixlen >= 96:
            network = ipaddress.ip_network(f"{mapped}/{network.prefixlen - 96}")
        if client in network:
            return verb == "allow"
    return not any(entry.split()[0] == "allow" for entry in entries)


def block_map(data: bytes) -> None:
    """A header is read only if it is, byte for byte, what would be written."""
    for raw in (data, _as_header(data)):
        try:
            header, length = PartialHeader.decode(raw)
        except ValueError:
            continue
        assert header.encode() == raw[:length]
        assert PartialHeader.decode(header.encode() + b"\1\0") == (header, length)
        for name, kind in PartialHeader.__annotations__.items():
            assert type(getattr(header, name)).__name__ == str(kind)


def _as_header(text: bytes) -> bytes:
    """The bytes as the JSON of a header, framed rightly."""
    length = -(-(24 + len(text)) // 4096) * 4096
    return (b"streamcache map\n%08x" % length + text).ljust(length, b"\0")


TARGETS: dict[str, Callable[[bytes], None]] = {
    "head": head,
    "target": target,
    "ranges": ranges,
    "conditions": conditions,
    "proxy": proxy,
    "grant": grant,
    "secrets": secrets,
    "networks": networks,
    "block_map": block_map,
    "catalog": files.catalog,
    "map_file": files.map_file,
    "object_file": files.object_file,
}
SLOW = frozenset(("catalog", "map_file", "object_file"))  # each run opens a cache
