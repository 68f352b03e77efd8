"""Basic authentication with real bcrypt hashes, of the lowest cost."""

from __future__ import annotations

import base64
import importlib
import importlib.util
import subprocess
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcache.access import passwords as passwords_module
from streamcache.access.passwords import (
    MAX_PASSWORD,
    MOST_REMEMBERED,
    REMEMBERED,
    REMEMBERED_WRONG,
    Credentials,
    Passwords,
    read_htpasswd,
)
from streamcache.errors import ConfigError

bcrypt: Any = importlib.import_module("bcrypt") if importlib.util.find_spec("bcrypt") else None
pytestmark = pytest.mark.usefixtures("bcrypt_library")


def hashed(password: bytes, prefix: bytes = b"2b", cost: int = 4) -> bytes:
    if bcrypt is None:
        return b""  # all tests here are skipped
    salt = b"$2b$%02d$streamcachesaltsaltsae" % cost  # always the same: it is in names of tests
    made = bcrypt.hashpw(password[:72], salt)
    return b"$" + prefix + made[3:]


def basic(user: bytes, password: bytes) -> str:
    return "Basic " + base64.b64encode(user + b":" + password).decode()


USERS = {b"anna": hashed(b"secret"), b"J\xc3\xb6rg": hashed(b"p\xc3\xa4ss:word")}


@pytest.mark.parametrize("prefix", [b"2a", b"2b", b"2y"])
def test_a_password_fits_its_hash(prefix: bytes) -> None:
    users = read_htpasswd(b"anna:" + hashed(b"secret", prefix))
    passwords = Passwords(users)
    assert passwords.check(Credentials(b"anna", b"secret"))
    for user, password in ((b"anna", b"Secret"), (b"anna", b""), (b"bob", b"secret"), (b"", b"")):
        assert not passwords.check(Credentials(user, password))


def test_names_and_passwords_are_bytes() -> None:
    passwords = Passwords(USERS)
    assert passwords.check(Credentials.parse(basic(b"J\xc3\xb6rg", b"p\xc3\xa4ss:word")))
    assert not passwords.check(Credentials.parse(basic(b"J\xf6rg", b"p\xe4ss:word")))


def test_long_passwords_are_cut_where_htpasswd_cuts_them() -> None:
    passwords = Passwords({b"anna": hashed(b"x" * 100)})
    assert passwords.check(Credentials(b"anna", b"x" * 100))
    assert not passwords.check(Credentials(b"anna", b"x" * 71))


def test_nobody_has_the_hash_that_unknown_users_are_checked_against() -> None:
    for users, password in ((USERS, b""), (USERS, b"." * 53), ({}, b"x")):
        assert not Passwords(users).check(Credentials(b"nobody", password))


def test_an_unknown_user_costs_a_hash_as_well() -> None:
    """Not by the clock: both calls do the one expensive thing, at the same cost."""
    asked: list[bytes] = []
    passwords = Passwords(USERS)

    class Recorded:
        def checkpw(self, password: bytes, against: bytes) -> bool:
            asked.append(against)
            return bool(bcrypt.checkpw(password, against))

    passwords._bcrypt = Recorded()
    assert passwords.check(Credentials(b"anna", b"secret"))
    assert not passwords.check(Credentials(b"nobody", b"secret"))
    assert [each[:7] for each in asked] == [b"$2b$04$"] * 2


def test_a_verdict_is_known_for_a_while() -> None:
    passwords = Passwords(USERS)
    good, bad = Credentials(b"anna", b"secret"), Credentials(b"anna", b"Secret")
    assert passwords.known(good, 0) is None
    passwords.remember(good, passwords.check(good), 0)
    passwords.remember(bad, passwords.check(bad), 0)
    assert passwords.known(good, 1) is True
    assert passwords.known(bad, 1) is False
    assert passwords.known(bad, REMEMBERED_WRONG) is None
    assert passwords.known(good, REMEMBERED - 1) is True
    assert passwords.known(good, 2 * REMEMBERED - 2) is True, "who is in stays in"
    assert passwords.known(good, 3 * REMEMBERED) is None
    assert passwords.known(Credentials(b"Anna", b"secret"), 1) is None


def test_wrong_ones_push_out_no_right_one_and_are_bounded() -> None:
    passwords = Passwords(USERS)
    good = Credentials(b"anna", b"secret")
    passwords.remember(good, True, 0)
    for number in range(3 * MOST_REMEMBERED):
        passwords.remember(Credentials(b"anna", b"%d" % number), False, 0)
    assert passwords.known(good, 1) is True
    assert passwords.known(Credentials(b"anna", b"0"), 1) is None
    assert passwords.known(Credentials(b"anna", b"%d" % (3 * MOST_REMEMBERED - 1)), 1) is False
    assert len(passwords._wrong._until) == MOST_REMEMBERED


def test_no_password_is_kept() -> None:
    passwords = Passwords(USERS)
    credentials = Credentials(b"anna", b"rarely-guessed")
    passwords.remember(credentials, False, 0)
    kept = [*passwords._right._until, *passwords._wrong._until]
    assert kept and all(len(digest) == 32 for digest in kept)
    other = Passwords(USERS)
    other.remember(credentials, False, 0)
    assert [*other._wrong._until] != kept  # each process has a key of its own
    assert "rarely" not in repr(credentials)


def test_a_hash_runs_beside_the_caller() -> None:
    """bcrypt gives the interpreter away: a hash in a worker does not hold the hub."""
    import threading

    passwords = Passwords({b"anna": hashed(b"secret", cost=11)})
    done = threading.Event()
    worker = threading.Thread(
        target=lambda: (passwords.check(Credentials(b"anna", b"x")), done.set())
    )
    turns = 0
    worker.start()
    while not done.is_set():
        time.sleep(0.001)
        turns += 1
    worker.join()
    assert turns > 5


@pytest.mark.parametrize(
    "value",
    [
        *("", "Basic", "Basic ", "Bearer abc", "Digest x", "Basic ====", "Basic a"),
        *("Basic YTpi YTpi",),
        *("Basic YTpi\n", "Basic \xe9", "Basic YTp*i", "BasicYTpi", "Basic YWI="),
        *(basic(*pair) for pair in ((b"", b"x"), (b"a" * 256, b"x"), (b"a", b"x" * 1025))),
        *(basic(*pair) for pair in ((b"a\0", b"x"), (b"a", b"x\0y"), (b"a\r\nb", b"x"))),
    ],
)  # fmt: skip
def test_what_is_no_credentials(value: str) -> None:
    assert Credentials.parse(value) is None


def test_what_is_credentials() -> None:
    assert Credentials.parse("bASIC  YTpiOmM=") == Credentials(b"a", b"b:c")
    assert Credentials.parse(basic(b"a", b"")) == Credentials(b"a", b"")
    assert Credentials.parse(basic(b"a", b"x" * MAX_PASSWORD)) is not None


def test_an_htpasswd_file() -> None:
    one, two = hashed(b"1"), hashed(b"2", b"2y", 5)
    text = b"# users\n\n  anna:" + one + b"\r\nb b:" + two
    assert read_htpasswd(text) == {b"anna": one, b"b b": two}
    assert read_htpasswd(b"") == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"anna", "line 1: not a user"),
        (b":" + hashed(b"1"), "line 1: not a user"),
        (b"#\na\0b:" + hashed(b"1"), "line 2: not a user"),
        (b"anna:swordfish", "line 1: not a bcrypt hash"),
        (b"anna:$apr1$gx0Z.iEg$XU3Uw1HwfSV3zZ0wuBcPk1", "line 1: not a bcrypt hash"),
        (b"anna:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", "line 1: not a bcrypt hash"),
        (b"anna:$6$salt$IxDD3jeSOb5eB1CX5LBsqZFVkJdido3OUILO5Ifz5iwMuTS4XMS130", "not a bcrypt"),
        (b"anna:" + hashed(b"1") + b":comment", "line 1: not a bcrypt hash"),
        (b"anna:" + hashed(b"1")[:-1], "line 1: not a bcrypt hash"),
        (b"anna:" + hashed(b"1")[:28] + b"z" + hashed(b"1")[29:], "line 1: not a bcrypt hash"),
        (b"anna:$2b$31$" + hashed(b"1")[7:], "line 1: cost 31; allowed: 4 to 16"),
        (b"anna:$2b$03$" + hashed(b"1")[7:], "line 1: cost 3"),
        (b"anna:" + hashed(b"1") + b"\nanna:" + hashed(b"2"), "line 2: a second line"),
    ],
)
def test_a_bad_htpasswd_file_is_refused_by_line(text: bytes, problem: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_htpasswd(text)
    assert problem in str(caught.value)
    assert "swordfish" not in str(caught.value) and "$" not in str(caught.value)


def test_without_the_library_the_extra_is_named() -> None:
    """In an interpreter that has no bcrypt, as most installations have none."""
    code = (
        "import sys; sys.modules['bcrypt'] = None\n"
        "from streamcache.access.passwords import Passwords\n"
        "from streamcache.errors import ConfigError\n"
        "try: Passwords({})\n"
        "except ConfigError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"{sys.executable} -m pip install bcrypt" in done.stdout
    assert issubclass(ConfigError, Exception) and passwords_module.load_bcrypt() is bcrypt


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_credentials_are_read_as_they_were_written(user: bytes, password: bytes) -> None:
    controls = {*range(32), 127}
    fits = user and b":" not in user and not controls.intersection(user + password)
    found = Credentials.parse(basic(user, password))
    if fits:
        assert found == Credentials(user, password)
    elif b":" not in user:
        assert found is None
