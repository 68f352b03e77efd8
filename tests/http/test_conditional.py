from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcache.http.conditional import Verdict, evaluate
from streamcache.http.dates import MIN_DATE, format_date
from streamcache.http.entity import Entity
from streamcache.http.headers import Headers

MTIME = 1709210096
NOW = MTIME + 1_000_000
ENTITY = Entity(size=1000, etag='"v1"', mtime=MTIME, content_type="video/mp4")
LM = format_date(MTIME)
BEFORE = format_date(MTIME - 1)
AFTER = format_date(MTIME + 1)
LM850 = "Thursday, 29-Feb-24 12:34:56 GMT"
LM_ASCTIME = "Thu Feb 29 12:34:56 2024"

GO, WHOLE, SAME, FAILED = (
    *(Verdict.PROCEED, Verdict.IGNORE_RANGE, Verdict.NOT_MODIFIED, Verdict.FAILED),
)
INM, IMS, IM, IUS, IR = (
    *("if-none-match", "if-modified-since", "if-match", "if-unmodified-since", "if-range"),
)


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ([], GO),
        # If-None-Match: weak comparison (13.1.2)
        ([(INM, '"v1"')], SAME),
        ([(INM, 'W/"v1"')], SAME),
        ([(INM, "*")], SAME),
        ([(INM, '"other"')], GO),
        ([(INM, '"a", "v1", "b"')], SAME),
        ([(INM, '"a","v1"')], SAME),
        ([(INM, 'W/"a", W/"v1"')], SAME),
        ([(INM, ', ,"v1" ,')], SAME),
        ([(INM, '"a", "b", W/"c"')], GO),
        ([(INM, '"a"'), (INM, '"v1"')], SAME),
        ([(INM, '"a,b", "v1"')], SAME),
        ([(INM, '"a\\", "v1"')], SAME),
        ([(INM, '"x,"v1""')], GO),
        ([(INM, '""')], GO),
        ([(INM, '"xv1"')], GO),
        ([(INM, "v1")], GO),
        ([(INM, '"v1')], GO),
        ([(INM, '"""')], GO),
        ([(INM, 'w/"v1"')], GO),
        ([(INM, 'W/ "v1"')], GO),
        ([(INM, '"v1" "a"')], GO),
        ([(INM, '"v1", junk')], GO),
        ([(INM, '*, "v1"')], GO),
        ([(INM, '"v1", *')], GO),
        ([(INM, "")], GO),
        ([(INM, '"a'), (INM, 'b", "v1"')], GO),
        ([(INM, '"\u00e9", "v1"')], SAME),
        ([(INM, '"other"'), (IMS, LM)], GO),
        ([(INM, '"v1"'), (IMS, BEFORE)], SAME),
        ([(INM, "junk"), (IMS, LM)], GO),
        # If-Modified-Since (13.1.3)
        ([(IMS, LM)], SAME),
        ([(IMS, LM850)], SAME),
        ([(IMS, LM_ASCTIME)], SAME),
        ([(IMS, AFTER)], SAME),
        ([(IMS, BEFORE)], GO),
        ([(IMS, "yesterday")], GO),
        ([(IMS, "")], GO),
        ([(IMS, f"{LM}, {LM}")], GO),
        ([(IMS, LM), (IMS, LM)], GO),
        ([(IMS, "Fri, 31 Dec 9999 23:59:59 GMT")], SAME),
        # If-Match: strong comparison (13.1.1)
        ([(IM, '"v1"')], GO),
        ([(IM, "*")], GO),
        ([(IM, '"other"')], FAILED),
        ([(IM, '"a", "v1"')], GO),
        ([(IM, '"a", "b"')], FAILED),
        ([(IM, 'W/"v1"')], FAILED),
        ([(IM, "")], FAILED),
        ([(IM, "v1")], FAILED),
        # If-Unmodified-Since (13.1.4)
        ([(IUS, LM)], GO),
        ([(IUS, LM850)], GO),
        ([(IUS, AFTER)], GO),
        ([(IUS, BEFORE)], FAILED),
        ([(IUS, "yesterday")], GO),
        ([(IUS, BEFORE), (IUS, BEFORE)], GO),
        # the order (13.2.2)
        ([(IM, '"v1"'), (IUS, BEFORE)], GO),
        ([(IM, '"other"'), (IUS, LM)], FAILED),
        ([(IM, '"other"'), (INM, '"v1"')], FAILED),
        ([(IM, '"v1"'), (INM, '"v1"')], SAME),
        ([(IUS, BEFORE), (INM, '"v1"')], FAILED),
        ([(IUS, LM), (IMS, LM)], SAME),
        ([(IR, '"other"'), (INM, '"v1"')], SAME),
        ([(IR, '"other"'), (IM, '"other"')], FAILED),
        # If-Range (13.1.5)
        ([(IR, '"v1"')], GO),
        ([(IR, '"other"')], WHOLE),
        ([(IR, 'W/"v1"')], WHOLE),
        ([(IR, "v1")], WHOLE),
        ([(IR, '"a", "v1"')], WHOLE),
        ([(IR, '"v1", "v1"')], WHOLE),
        ([(IR, "*")], WHOLE),
        ([(IR, "")], WHOLE),
        ([(IR, "yesterday")], WHOLE),
        ([(IR, LM)], GO),
        ([(IR, LM850)], GO),
        ([(IR, BEFORE)], WHOLE),
        ([(IR, AFTER)], WHOLE),
    ],
)
def test_preconditions(fields: list[tuple[str, str]], verdict: Verdict):
    assert evaluate(Headers(fields), ENTITY, NOW) is verdict


def test_a_weak_tag_of_ours_matches_weakly_only():
    weak = Entity(size=1000, etag='W/"v1"', mtime=MTIME, content_type="video/mp4")
    for value in ('W/"v1"', '"v1"'):
        assert evaluate(Headers([(INM, value)]), weak, NOW) is SAME
        assert evaluate(Headers([(IM, value)]), weak, NOW) is FAILED
        assert evaluate(Headers([(IR, value)]), weak, NOW) is WHOLE


@pytest.mark.parametrize(("age", "verdict"), [(-1, WHOLE), (0, WHOLE), (1, GO)])
def test_a_date_is_strong_only_when_its_second_is_over(age: int, verdict: Verdict):
    assert evaluate(Headers([(IR, LM)]), ENTITY, MTIME + age) is verdict


def test_a_file_without_an_expressible_time_ignores_dates():
    ancient = Entity(size=1, etag='"v1"', mtime=MIN_DATE - 1, content_type="text/plain")
    for name in (IMS, IUS):
        for date in (LM, format_date(MIN_DATE)):
            assert evaluate(Headers([(name, date)]), ancient, NOW) is GO


TAGS = st.text("a,\\!W/", max_size=3).map(lambda text: f'"{text}"')


@given(tags=st.lists(st.tuples(st.sampled_from(["", "W/"]), TAGS), min_size=1), ours=TAGS)
def test_lists_of_tags_are_searched_to_the_end(tags: list[tuple[str, str]], ours: str):
    entity = Entity(size=1, etag=ours, mtime=MTIME, content_type="text/plain")
    value = ",".join(weak + tag for weak, tag in tags)
    weakly = ours in [tag for _, tag in tags]
    strongly = ours in [tag for weak, tag in tags if not weak]
    assert evaluate(Headers([(INM, value)]), entity, NOW) is (SAME if weakly else GO)
    assert evaluate(Headers([(IM, value)]), entity, NOW) is (GO if strongly else FAILED)


@given(st.text('a"W/, *\\', max_size=30), st.sampled_from([INM, IM, IR, IMS, IUS]))
def test_any_value_has_a_verdict(value: str, name: str):
    assert evaluate(Headers([(name, value)]), ENTITY, NOW) in Verdict


@pytest.mark.parametrize(
    ("size", "etag", "content_type"),
    [
        (-1, '"v1"', "text/plain"),
        (1, "v1", "text/plain"),
        (1, '"v"1"', "text/plain"),
        (1, '"v 1"', "text/plain"),
        (1, '"v\r\n1"', "text/plain"),
        (1, '"v1"\n', "text/plain"),
        (1, '"v1"', ""),
        (1, '"v1"', "text/plain\r\nX: 1"),
        (1, '"v1"', "text/pl\u00e4in"),
    ],
)
def test_an_entity_holds_only_what_fields_may_carry(size: int, etag: str, content_type: str):
    with pytest.raises(ValueError, match=r".+"):
        Entity(size=size, etag=etag, mtime=MTIME, content_type=content_type)


@pytest.mark.parametrize(
    ("mtime", "value"),
    [
        (MTIME, LM),
        (NOW, format_date(NOW)),
        (NOW + 1, format_date(NOW)),
        (10**15, format_date(NOW)),
        (-1, "Wed, 31 Dec 1969 23:59:59 GMT"),
        (MIN_DATE - 1, None),
    ],
)
def test_last_modified_is_never_after_now(mtime: int, value: str | None):
    entity = Entity(size=1, etag='"v1"', mtime=mtime, content_type="text/plain")
    assert entity.last_modified(NOW) == value
