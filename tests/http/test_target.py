from __future__ import annotations

import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcache.http.request import BadRequest
from streamcache.http.target import authority_of, resolve
from tests.http.wire import head, request_of, status_of


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/", "/"),
        ("/a.mp4", "/a.mp4"),
        ("/a/b/c.mp4", "/a/b/c.mp4"),
        ("/a?x=1&y=%20", "/a"),
        ("/a?", "/a"),
        ("/a?/../../x", "/a"),
        ("/a?%zz[]|^{}`\\?/:@", "/a"),
        ("/a/", "/a/"),
        ("//a", "/a"),
        ("/a//b", "/a/b"),
        ("/a//", "/a/"),
        ("/./a", "/a"),
        ("/a/.", "/a/"),
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/..", "/"),
        ("/a/b/..", "/a/"),
        ("/a/%2e%2E/b", "/b"),
        ("/a/.%2e/b", "/b"),
        ("/%2e/a", "/a"),
        ("/...", "/..."),
        ("/..a", "/..a"),
        ("/a..b/.c", "/a..b/.c"),
        ("/%72%31", "/r1"),
        ("/a%20b", "/a b"),
        ("/a%25b", "/a%b"),
        ("/a%2541", "/a%41"),
        ("/%252e%252e/a", "/%2e%2e/a"),
        ("/a+b", "/a+b"),
        ("/a%3Fb%23c", "/a?b#c"),
        ("/a%5Cb", "/a\\b"),
        ("/..%5ca", "/..\\a"),
        ("/a%0d%0ab", "/a\r\nb"),
        ("/tilde~!$&'()*+,;=@:-_.", "/tilde~!$&'()*+,;=@:-_."),
        ("/film [1080p]|^.mkv".replace(" ", "%20"), "/film [1080p]|^.mkv"),
        ("/%c3%bc%E6%97%A5", "/\u00fc\u65e5"),
        ("/%ff%fe", "/\udcff\udcfe"),
        ("/%c0%af", "/\udcc0\udcaf"),
        ("/..%c0%afa", "/..\udcc0\udcafa"),
        ("/%ed%a0%80", "/\udced\udca0\udc80"),
        ("http://h/a", "/a"),
        ("HTTP://h:80/a?b", "/a"),
        ("http://h", "/"),
        ("http://h?x", "/"),
        ("http://[::1]:80/a", "/a"),
        ("http://h//a", "/a"),
    ],
)
def test_targets_that_name_a_path(target: str, path: str):
    assert request_of(head(target)).path == path
    assert request_of(head(target, method="HEAD")).path == path
    assert request_of(head(target)).target == target


@pytest.mark.parametrize(
    ("target", "status"),
    [
        *(
            (target, 400)
            for target in (
                *("*", "a", "../a", "..", "\\..\\a", "h:80", "http:/h/a", "http:a", "://h/a"),
                *("/#", "/a#x", "/a?x#y", "/\u00fc", "/a\x01", "/a\x7f", "/a\0", "/a{b}", '/"a"'),
                *("/<a>", "/a\\b", "/..\\a", "/a`b", '/a?"', "/a?<"),
                *(
                    "/%",
                    "/%2",
                    "/%zz",
                    "/a%",
                    "/a%4",
                    "/%%32%35",
                    "/%u0041",
                    "/%+1",
                    "/% 1",
                    "/%1_",
                ),
                *("/%00", "/a%00.txt", "/..%00/a", "/%00/../a"),
                *("/..", "/../", "/../a", "/%2e%2e", "/%2E%2E/a", "/.%2e/a", "/a/../../b"),
                *("//../a", "/./../a", "/.//../a", "/" + "../" * 40 + "a", "http://h/../a"),
                *("http:///a", "http://", "http://:80/a", "http://u:p@h/a", "http://u@h/a"),
                *("http://h b/a", "http://[::1/a", "http://h:x/a", "http://h#/a", "ftp://h/a"),
                *("file:///etc/passwd", "x://h", "http://h\\a/"),
            )
        ),
        ("https://h/a", 421),
        ("/..%2f%00", 400),
        ("/%2f/../..", 400),
    ],
)
def test_targets_that_name_nothing(target: str, status: int):
    assert status_of(head(target)) == status
    assert status_of(head(target, method="HEAD")) == status


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/a%2Fb", "/a%2Fb/"),
        ("/..%2fa", "/..%2Fa/"),
        ("/%2e%2e%2fa", "/..%2Fa/"),
        ("/%2f", "/%2F/"),
        ("/a%2f..%2f..%2fb", "/a%2F..%2F..%2Fb/"),
        ("/a%2f/../b", "/b/"),
        ("/a%2f/..", "/"),
        ("/a?b=%2f", "/a"),
        ("/a%252fb", "/a%2fb"),
        ("http://h/..%2fa", "/..%2Fa/"),
    ],
)
def test_an_escaped_slash_parts_nothing_and_such_a_path_is_no_file_s(target: str, path: str):
    assert request_of(head(target)).path == path


@pytest.mark.parametrize("target", ["*", "http://h", "http://h:80"])
def test_options_may_ask_about_the_server(target: str):
    assert request_of(head(target, method="OPTIONS")).path == ""


def test_options_of_a_file_has_its_path():
    assert request_of(head("/a", method="OPTIONS")).path == "/a"
    assert request_of(head("http://h/", method="OPTIONS")).path == "/"


@pytest.mark.parametrize(
    ("target", "status"),
    [
        *(("h:80", None), ("[::1]:443", None), ("h", 400), ("h:", 400), (":80", 400)),
        *(("/a", 400), ("http://h:80", 400), ("*", 400), ("u@h:80", 400), ("h:80/", 400)),
    ],
)
def test_connect_takes_an_authority_only(target: str, status: int | None):
    assert status_of(head(target, method="CONNECT")) == status


def test_the_authority_needs_a_host_field_beside_it():
    assert status_of(head("http://h/a", host=None)) == 400
    assert status_of(head("http://h/a", host="Host: other")) is None


NAMES = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8
).filter(lambda name: name not in (".", ".."))


@given(st.lists(NAMES, min_size=1, max_size=4))
def test_a_quoted_path_comes_back(names: list[str]):
    path = "/" + "/".join(names)
    assert resolve("GET", urllib.parse.quote(path)) == path
    everything = "".join(
        "/" if char == "/" else "".join(f"%{octet:02x}" for octet in char.encode()) for char in path
    )
    assert resolve("GET", everything) == path


@pytest.mark.parametrize(
    ("target", "authority"),
    [
        ("/a", ""),
        ("/http://a/b", ""),
        ("*", ""),
        ("films:80", ""),
        ("http://films", "films"),
        ("http://films:80/a?b=http://c/d", "films:80"),
        ("HTTPS://[::1]:8443?a", "[::1]:8443"),
    ],
)
def test_the_authority_of_a_target_is_that_of_its_absolute_form(target: str, authority: str):
    assert authority_of(target) == authority


@given(
    st.lists(
        st.sampled_from(["/", ".", "..", "a", "%2e", "%2f", "%5c", "%00", "%25", "%c0", "?", "b%"]),
        max_size=12,
    )
)
def test_no_target_leaves_the_root(parts: list[str]):
    try:
        path = resolve("GET", "/" + "".join(parts))
    except BadRequest as refusal:
        assert refusal.status == 400
    else:
        assert path.startswith("/")
        assert not {"..", "."} & set(path.split("/"))
        assert "//" not in path
        assert "\0" not in path
