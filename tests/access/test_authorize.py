"""The decision about a request, over all that it is made of."""

from __future__ import annotations

import base64

import pytest

from streamcache.access.authorize import (
    Access,
    AccessRequest,
    AccessRules,
    Answer,
    Decision,
    Verdict,
    access_request,
    ask,
    challenge,
    log_name,
)
from streamcache.access.networks import UNIX, UNKNOWN, read_host
from streamcache.access.proxyprotocol import read_proxy_header
from streamcache.access.signing import Keys, in_path, sign
from streamcache.errors import ConfigError
from streamcache.http.plan import head_bytes, plan_error
from streamcache.http.request import Limits, Request, parse_head
from tests.http.wire import head

KEYS = b"k1 " + b"5e" * 32
NOW = 1_767_225_600
ALLOW, DENY, CHECK = Verdict.ALLOW, Verdict.DENY, Verdict.CHECK
ALICE = read_host("192.0.2.1")
MALLORY = read_host("203.0.113.9")


def request(target: str = "/a.mp4", *fields: str, method: str = "GET") -> Request:
    data = head(target, *fields, method=method).removesuffix(b"\r\n\r\n")
    return parse_head(data, Limits())


def decide(access: Access, asked: Request, client: object = ALICE, wall: float = NOW) -> Decision:
    return access.decide(asked, client, now=10.0, wall=wall)


def look_at(access: Access, decision: Decision) -> Decision:
    """As the server does with a password that is not known: checked, remembered, settled."""
    assert decision.verdict is CHECK
    right = access.check(decision.credentials)
    access.remember(decision.credentials, right, now=10.0)
    return access.settle(decision, right=right)


def grant(path: str = "/a.mp4", expires: int = NOW + 60, *, folder: bool = False) -> str:
    return sign(Keys.parse(KEYS), path, expires, folder=folder)


def basic(user: str, password: str) -> str:
    return f"Authorization: Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


@pytest.fixture(scope="module")
def htpasswd(bcrypt_library: None) -> bytes:
    import bcrypt

    return b"anna:" + bcrypt.hashpw(b"secret", bcrypt.gensalt(4))


def test_nothing_configured_lets_everybody_in() -> None:
    access = Access(AccessRules())
    for client in (ALICE, UNIX, UNKNOWN):
        assert access.admits(client)
        assert decide(access, request(), client) == Decision(ALLOW, "/a.mp4")
    for asked in (request("*", method="OPTIONS"), request("/grant=x/a"), request("/a?grant=x")):
        assert decide(access, asked) == Decision(ALLOW, asked.path)


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        (AccessRules(networks=("allow 10.0.0.1/8",)), "access.networks: 'allow 10.0.0.1/8'"),
        (AccessRules(trusted_proxies=("here",)), "access.trusted_proxies: 'here'"),
        (AccessRules(proxy_protocol=True), "access.proxy_protocol: nobody could connect"),
        (AccessRules(keys=b"k1 00"), "access.keys: line 1: 1 bytes"),
        (AccessRules(htpasswd=b"anna:x"), "access.htpasswd: line 1: not a bcrypt hash"),
        (AccessRules(realm='"'), "access.realm:"),
    ],
)
def test_a_bad_rule_names_its_option(rules: AccessRules, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Access(rules)
    assert str(caught.value).startswith(problem)


def test_networks_come_first() -> None:
    access = Access(AccessRules(networks=("allow 192.0.2.0/24",), keys=KEYS))
    good = request(f"/a.mp4?grant={grant()}")
    assert decide(access, good).verdict is ALLOW
    refused = decide(access, good, MALLORY)
    assert (refused.verdict, refused.status, refused.reason) == (DENY, 403, "network")
    assert decide(access, good, UNKNOWN).verdict is DENY
    assert access.admits(ALICE) and not access.admits(MALLORY)


def test_a_proxy_is_admitted_for_those_behind_it() -> None:
    access = Access(AccessRules(networks=("allow 192.0.2.0/24",), trusted_proxies=("10.0.0.1",)))
    proxy = read_host("10.0.0.1")
    assert access.admits(proxy)
    for said, verdict in (("192.0.2.1", ALLOW), ("203.0.113.9", DENY), ("?", DENY)):
        asked = request("/a.mp4", f"X-Forwarded-For: 192.0.2.1, {said}")
        client = access.client(proxy, asked.headers)
        assert decide(access, asked, client).verdict is verdict
    # the proxy's own requests are not its clients'
    assert decide(access, request(), access.client(proxy, request().headers)).verdict is DENY
    forged = request("/a.mp4", "X-Forwarded-For: 192.0.2.1", "Forwarded: for=192.0.2.1")
    assert access.client(MALLORY, forged.headers) == MALLORY
    only = request("/a.mp4", "Forwarded: for=192.0.2.1")
    assert access.client(proxy, only.headers) == proxy


def test_a_proxy_header_counts_from_a_proxy_only() -> None:
    access = Access(AccessRules(trusted_proxies=("10.0.0.1", "unix")))
    proxy = read_host("10.0.0.1")
    named = read_proxy_header(b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n")
    nameless = read_proxy_header(b"PROXY UNKNOWN\r\n")
    local = read_proxy_header(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0")
    for peer in (proxy, UNIX):
        assert access.origin(peer, named) == ALICE
        assert access.origin(peer, nameless) is UNKNOWN
        assert access.origin(peer, local) is peer
    for header in (named, nameless, local):
        assert access.origin(MALLORY, header) is None


def test_with_the_proxy_protocol_only_proxies_connect() -> None:
    access = Access(AccessRules(trusted_proxies=("10.0.0.1",), proxy_protocol=True))
    assert access.admits(read_host("10.0.0.1")) and not access.admits(ALICE)
    assert decide(access, request(), ALICE).verdict is ALLOW


def test_a_refusal_is_an_answer() -> None:
    for verdict in (DENY, Verdict.EXPIRED, Verdict.CHALLENGE):
        refused = Decision(verdict, "/a", headers=challenge("r") if verdict not in (DENY,) else ())
        answer = plan_error(request(), refused.status, headers=refused.headers)
        assert head_bytes(answer, date=b"x").startswith(b"HTTP/1.1 %d " % refused.status)
        assert b"/a" not in b"".join(answer.pieces)


def test_a_grant_lets_in_and_is_taken_out_of_the_path() -> None:
    access = Access(AccessRules(keys=KEYS))
    assert decide(access, request(f"/a.mp4?grant={grant()}")) == Decision(ALLOW, "/a.mp4")
    target = in_path(grant("/films", folder=True), "/films/a%20b.ts")
    assert decide(access, request(target)) == Decision(ALLOW, "/films/a b.ts")
    for asked, verdict, reason in (
        (request(), DENY, "grant missing"),
        (request("/a.mp4?grant=x"), DENY, "grant bad"),
        (request(f"/b.mp4?grant={grant()}"), DENY, "grant bad"),
        (request(f"/a.mp4?grant={grant(expires=NOW)}"), Verdict.EXPIRED, "grant expired"),
        (request("*", method="OPTIONS"), DENY, "grant missing"),
        (request("/a.mp4", basic("anna", "secret")), DENY, "grant missing"),
    ):
        found = decide(access, asked)
        assert (found.verdict, found.reason, found.status) == (verdict, reason, 403)
        assert found.headers == ()


def test_a_password_is_asked_for_and_checked_once(htpasswd: bytes) -> None:
    access = Access(AccessRules(htpasswd=htpasswd, realm="films"))
    refused = decide(access, request())
    assert (refused.verdict, refused.status) == (Verdict.CHALLENGE, 401)
    assert refused.headers == (("WWW-Authenticate", 'Basic realm="films", charset="UTF-8"'),)
    asked = request("/a.mp4", basic("anna", "secret"))
    first = decide(access, asked)
    assert first.verdict is CHECK and first.path == "/a.mp4"
    settled = look_at(access, first)
    assert settled == Decision(ALLOW, "/a.mp4", user="anna")
    assert decide(access, asked) == settled  # no second hash
    wrong = request("/a.mp4", basic("anna", "guess"))
    first = decide(access, wrong)
    settled = look_at(access, first)
    assert (settled.verdict, settled.headers) == (Verdict.CHALLENGE, refused.headers)
    assert decide(access, wrong) == settled


def test_authorization_that_is_none_is_asked_for_again(htpasswd: bytes) -> None:
    access = Access(AccessRules(htpasswd=htpasswd))
    good = basic("anna", "secret")
    for fields in (["Authorization: Bearer x"], ["Authorization: Basic !"], [good, good]):
        assert decide(access, request("/a.mp4", *fields)).verdict is Verdict.CHALLENGE


def test_of_grant_and_password_either_is_enough(htpasswd: bytes) -> None:
    access = Access(AccessRules(htpasswd=htpasswd, keys=KEYS))
    good, wrong = basic("anna", "secret"), basic("anna", "guess")
    look_at(access, decide(access, request("/a.mp4", good)))
    look_at(access, decide(access, request("/a.mp4", wrong)))
    right, expired = f"/a.mp4?grant={grant()}", f"/a.mp4?grant={grant(expires=NOW)}"
    forged = in_path("x", "/a.mp4")
    for target, fields, verdict in (
        ("/a.mp4", [], Verdict.CHALLENGE),
        ("/a.mp4", [good], ALLOW),
        ("/a.mp4", [wrong], Verdict.CHALLENGE),
        (right, [], ALLOW),
        (right, [wrong], ALLOW),
        (expired, [], Verdict.EXPIRED),
        (expired, [good], ALLOW),
        (expired, [wrong], Verdict.CHALLENGE),
        (forged, [], DENY),
        (forged, [good], ALLOW),
    ):
        found = decide(access, request(target, *fields))
        assert (found.verdict, found.path) == (verdict, "/a.mp4"), (target, fields)


@pytest.mark.parametrize("said", [*Answer, "allow", "deny", "challenge"])
def test_an_embedder_decides_about_who_came_that_far(said: Answer | str) -> None:
    seen: list[AccessRequest] = []
    asked = request("/a%20b.mp4?x=1&y", "X: y")
    decision = Decision(ALLOW, "/a b.mp4", user="anna")

    def authorize(request: AccessRequest) -> Answer | str:
        seen.append(request)
        return said

    found = ask(authorize, access_request(asked, decision, ALICE), realm="r")
    verdicts = {"allow": ALLOW, "deny": DENY, "challenge": Verdict.CHALLENGE}
    assert found.verdict is verdicts[Answer(said).value]
    assert (found.path, found.user) == ("/a b.mp4", "anna")
    assert found.headers == (challenge("r") if found.verdict is Verdict.CHALLENGE else ())
    (told,) = seen
    assert told == AccessRequest("GET", "/a b.mp4", "x=1&y", asked.headers, "192.0.2.1", "anna")


@pytest.mark.parametrize("said", [None, True, False, 0, "", "Allow", "yes", Verdict.ALLOW])
def test_any_other_answer_is_an_error(said: object) -> None:
    asked = access_request(request(), Decision(ALLOW, "/a.mp4"), UNKNOWN)
    with pytest.raises(TypeError, match="allowed: allow, deny, challenge"):
        ask(lambda _: said, asked)


def test_an_embedder_s_error_is_the_caller_s() -> None:
    def fail(_: AccessRequest) -> Answer:
        raise LookupError("database")

    with pytest.raises(LookupError):
        ask(fail, access_request(request(), Decision(ALLOW, "/a.mp4"), UNIX))


@pytest.mark.parametrize("realm", ["", 'a"b', "a\\b", "a\r\nSet-Cookie: x", "\xe9"])
def test_a_realm_stays_in_its_field(realm: str) -> None:
    with pytest.raises(ValueError):
        challenge(realm)


@pytest.mark.parametrize(
    ("user", "shown"),
    [
        (b"anna", "anna"),
        ("Jörg".encode(), "Jörg"),
        (b'a b"c\\', "a\\u0020b\\u0022c\\u005c"),
        (b"a\xff", "a\\u005cxff"),
        ("\u202eanna\u2028".encode(), "\\u202eanna\\u2028"),
    ],
)
def test_a_user_is_one_word_of_a_log(user: bytes, shown: str) -> None:
    assert log_name(user) == shown
