"""Requests and answers on one connection."""

from __future__ import annotations

import re

import pytest

from streamcache.cache.delegate import CacheStatus
from streamcache.errors import (
    AccessDenied,
    CacheError,
    Closed,
    NotFound,
    SourceBusy,
    SourceChanged,
    SourceTimeout,
    SourceUnavailable,
)
from tests.server.client import get


def test_a_file_comes_back_whole(site):
    here = site()
    answer = here.client().ask("/b.bin")
    assert (answer.status, answer.body) == (200, here.contents["/b.bin"])
    assert answer.fields["accept-ranges"] == "bytes"
    assert answer.fields["content-type"] == "application/octet-stream"


def test_an_empty_file(site):
    here = site()
    here.cache.status = CacheStatus.MISS
    answer = here.client().ask("/empty.bin")
    assert (answer.status, answer.body, answer.fields["content-length"]) == (200, b"", "0")
    assert answer.fields["cache-status"] == "streamcache; fwd=miss; stored"
    assert here.cache.kept == [("/empty.bin", "127.0.0.1")]


def test_who_does_not_ask_for_the_whole_of_an_empty_file_begins_no_copy(site):
    here = site()
    here.cache.status = CacheStatus.MISS
    client = here.client()
    head = client.ask("/empty.bin", method="HEAD")
    assert head.fields["cache-status"] == "streamcache; fwd=miss"
    same = client.ask("/empty.bin", f"If-None-Match: {head.fields['etag']}")
    failed = client.ask("/empty.bin", 'If-Match: "another"')
    assert (head.status, same.status, failed.status) == (200, 304, 412)
    assert not here.cache.kept


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("step", [1 << 30, 100_000])
def test_a_big_file_comes_in_whatever_pieces_are_ready(site, in_memory, step):
    here = site()
    here.cache.in_memory, here.cache.step = in_memory, step
    answer = here.client().ask("/big.bin")
    assert answer.body == here.contents["/big.bin"]
    assert here.cache.delegates[0].delivered == len(answer.body)


def test_keep_alive_serves_many_requests_on_one_connection(site):
    here = site()
    client = here.client()
    for _ in range(20):
        assert client.ask("/a.bin").body == here.contents["/a.bin"]
    assert here.server.connections == 1
    assert here.cache.counters.connections_accepted == 1


def test_one_range(site):
    here = site()
    answer = here.client().ask("/b.bin", "Range: bytes=10-19")
    assert (answer.status, answer.body) == (206, here.contents["/b.bin"][10:20])
    assert answer.fields["content-range"] == "bytes 10-19/70000"


def test_several_ranges_are_multipart(site):
    here = site()
    answer = here.client().ask("/b.bin", "Range: bytes=0-9,60000-60009")
    boundary = answer.fields["content-type"].partition("boundary=")[2].strip('"').encode()
    parts = answer.body.split(b"--" + boundary)[1:-1]
    bodies = [part.partition(b"\r\n\r\n")[2][:-2] for part in parts]
    assert bodies == [here.contents["/b.bin"][0:10], here.contents["/b.bin"][60000:60010]]
    assert here.cache.delegates[0].delivered == 20


def etag(client):
    return client.ask("/a.bin", method="HEAD").fields["etag"]


@pytest.mark.parametrize(
    ("status", "method", "field"),
    [
        (200, "HEAD", "X: y"),
        (304, "GET", "If-None-Match: ETAG"),
        (412, "GET", 'If-Match: "other"'),
        (416, "GET", "Range: bytes=5000-"),
    ],
)
def test_answers_without_bytes_of_the_file_start_no_copy(site, status, method, field):
    here = site()
    here.cache.status = CacheStatus.MISS
    client = here.client()
    field = field.replace("ETAG", etag(client))
    answer = client.ask("/a.bin", field, method=method)
    assert answer.status == status
    assert answer.fields["cache-status"] == "streamcache; fwd=miss"
    assert here.cache.delegates == []


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (CacheStatus.HIT, "streamcache; hit"),
        (CacheStatus.STALE, "streamcache; fwd=stale; detail=source-unreachable"),
        (CacheStatus.COLLAPSED, "streamcache; fwd=miss; collapsed"),
        (CacheStatus.MISS, "streamcache; fwd=miss; stored"),
        (CacheStatus.BYPASS, "streamcache; fwd=bypass"),
    ],
)
def test_cache_status_says_how_the_cache_served_it(site, status, expected):
    here = site()
    here.cache.status = status
    assert here.client().ask("/a.bin").fields["cache-status"] == expected


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (get("/a.bin/"), 404),
        (get("/"), 404),
        (get(method="POST"), 405),
        (get(method="BREW"), 501),
        (get("*", method="OPTIONS"), 204),
        (b"nonsense\r\n\r\n", 400),
    ],
)
def test_answers_that_never_reach_the_cache_say_only_its_name(site, request_bytes, status):
    here = site()
    client = here.client()
    client.send(request_bytes)
    answer = client.response()
    assert (answer.status, answer.fields["cache-status"]) == (status, "streamcache")
    assert here.cache.founds == []


@pytest.mark.parametrize("where", ["find", "open", "ready"])
@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [
        (NotFound(2, "gone"), 404, None),
        (AccessDenied(13, "no"), 403, None),
        (SourceTimeout("slow"), 504, None),
        (SourceBusy("full"), 503, "1"),
        (SourceUnavailable(5, "EIO"), 503, "5"),
        (SourceChanged("other"), 503, "1"),
        (Closed("cache"), 503, "5"),
    ],
)
def test_errors_before_the_first_byte_become_a_status(site, where, error, status, retry, caplog):
    here = site()
    if where == "find":
        here.cache.find_error = error
    elif where == "open":
        here.cache.open_error = error
    else:
        here.cache.gate("/a.bin").fail(error)
    client = here.client()
    answer = client.ask("/a.bin")
    assert (answer.status, answer.fields.get("retry-after")) == (status, retry)
    assert answer.fields["cache-status"] == "streamcache; fwd=miss"
    assert "Traceback" not in caplog.text
    here.cache.find_error = here.cache.open_error = None
    here.cache.gate("/a.bin").release(1000)
    assert client.ask("/a.bin").status == 200  # the connection goes on


@pytest.mark.parametrize("error", [CacheError("odd"), ZeroDivisionError("a bug")])
def test_unexpected_errors_are_500_with_one_traceback(site, error, caplog):
    here = site()
    here.cache.find_error = error
    assert here.client().ask("/a.bin").status == 500
    assert caplog.text.count("Traceback") == 1


def test_the_client_is_named_to_the_cache(site):
    here = site()
    here.client().ask("/a.bin")
    assert here.cache.clients == ["127.0.0.1"]


def test_every_answer_has_a_date(site):
    client = site().client()
    for path in ("/a.bin", "/none"):
        assert re.fullmatch(
            r"\w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT", client.ask(path).fields["date"]
        )


@pytest.mark.parametrize("target", ["/..%2fa.bin", "/a%2F..%2fa.bin", "/%2f", "/x%2f/../a.bin"])
def test_an_escaped_slash_is_404_as_any_other_and_the_connection_goes_on(site, target):
    here = site()
    client = here.client()
    for path, status in (("/a.bin", 200), (target, 404), ("/none", 404), ("/a.bin", 200)):
        answer = client.ask(path)
        assert (answer.status, answer.fields.get("connection")) == (status, None)
    assert client.ask(target, method="DELETE").status == 405
