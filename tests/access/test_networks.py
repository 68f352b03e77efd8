"""Lists of networks, and the client behind proxies."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcache.access.networks import (
    MAX_HOPS,
    UNIX,
    UNKNOWN,
    Network,
    Rules,
    TrustedProxies,
    entries,
    read_host,
)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("192.0.2.1", ["192.0.2.1", "::ffff:192.0.2.1"], ["192.0.2.2", "::c000:201", "unix"]),
        ("192.0.2.0/24", ["192.0.2.0", "192.0.2.255"], ["192.0.3.0", "192.0.1.255", "2001:db8::"]),
        ("0.0.0.0/0", ["0.0.0.0", "255.255.255.255", "::ffff:1.2.3.4"], ["::", "unix"]),
        ("::/0", ["::1", "ffff::"], ["1.2.3.4", "::ffff:1.2.3.4", "unix"]),
        ("2001:db8::/32", ["2001:db8::1", "2001:DB8:ffff::%eth0"], ["2001:db9::", "32.1.13.184"]),
        ("::ffff:10.0.0.0/104", ["10.1.2.3", "::ffff:10.1.2.3"], ["11.0.0.0", "::10.1.2.3"]),
        ("::ffff:0:0/96", ["10.1.2.3"], ["::1"]),
        ("fe80::/10", ["fe80::1%eth0"], ["fec0::1"]),
        ("unix", ["unix"], ["127.0.0.1", "::1"]),
    ],
)
def test_what_is_in_a_network(text: str, inside: list[str], outside: list[str]) -> None:
    network = Network.parse(text)
    assert [host for host in inside if read_host(host) not in network] == []
    assert [host for host in outside if read_host(host) in network] == []
    assert UNKNOWN not in network


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "localhost",
            "10",
            "10.0",
            "10.0.0",
            "10.0.0.0.0",
            "256.0.0.1",
            "1.2.3.04",
        ),
        *(
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/255.0.0.0",
            "10.0.0.0/0.255.255.255",
        ),
        *("10.0.0.0/8/8", "10.0.0.1/8", "::/129", "::1/64", "fe80::1%eth0", "fe80::%1/10", ":::"),
        *("10.0.0.0 /8", "10.0.0.0/ 8", "10.0.0.0/\u0668", "*", "10.*", "x" * 10_000),
    ],
)
def test_a_bad_network_is_refused_by_name(text: str) -> None:
    for parse in (Network.parse, lambda entry: Rules.parse([f"allow {entry}"])):
        with pytest.raises(ValueError) as caught:
            parse(text)
        assert repr(text)[1:60] in str(caught.value)
        assert "allowed:" in str(caught.value) or "write " in str(caught.value)
        assert len(str(caught.value)) < 500


def test_all_is_for_rules_only() -> None:
    """A proxy list of all would believe everybody."""
    with pytest.raises(ValueError, match="'all' is no network"):
        TrustedProxies.parse(["all"])


def test_bits_beyond_the_length_are_said_with_what_was_meant() -> None:
    with pytest.raises(ValueError, match=r"write 192\.168\.0\.0/16"):
        Network.parse("192.168.1.5/16")


@pytest.mark.parametrize("entry", ["", "allow", "10.0.0.0/8", "permit all", "Allow all", "a b c"])
def test_a_bad_rule_is_refused_by_name(entry: str) -> None:
    with pytest.raises(ValueError) as caught:
        Rules.parse(["allow all", entry])
    assert repr(entry) in str(caught.value)


@pytest.mark.parametrize(
    ("rules", "host", "allowed"),
    [
        ([], "192.0.2.1", True),
        (["deny 192.0.2.1"], "192.0.2.1", False),
        (["deny 192.0.2.1"], "192.0.2.2", True),
        (["allow 192.0.2.0/24"], "192.0.2.1", True),
        (["allow 192.0.2.0/24"], "198.51.100.1", False),  # a list of guests
        (["allow 192.0.2.0/24", "allow all"], "198.51.100.1", True),
        (["deny 192.0.2.1", "allow 192.0.2.0/24"], "192.0.2.1", False),
        (["deny 192.0.2.1", "allow 192.0.2.0/24"], "192.0.2.2", True),
        (["allow 192.0.2.1", "deny 192.0.2.0/24"], "192.0.2.1", True),
        (["allow 192.0.2.1", "deny 192.0.2.0/24"], "203.0.113.1", False),
        (["deny all", "allow 192.0.2.1"], "192.0.2.1", False),  # the first one counts
        (["allow unix"], "unix", True),
        (["allow unix"], "127.0.0.1", False),
        (["deny unix"], "unix", False),
    ],
)
def test_the_first_rule_that_fits_decides(rules: list[str], host: str, allowed: bool) -> None:
    assert Rules.parse(rules).allow(read_host(host)) is allowed


@pytest.mark.parametrize(
    ("rules", "allowed"),
    [([], True), (["deny 10.0.0.0/8"], True), (["allow 0.0.0.0/0", "allow ::/0"], False),
     (["allow all"], True), (["deny all"], False)],
)  # fmt: skip
def test_a_client_without_an_address_is_in_no_network(rules: list[str], allowed: bool) -> None:
    assert Rules.parse(rules).allow(UNKNOWN) is allowed


PROXIES = TrustedProxies.parse(["10.0.0.0/8", "::1", "unix"])


@pytest.mark.parametrize(
    ("peer", "values", "client"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["203.0.113.9"], "192.0.2.1"),  # who says so is not trusted
        ("10.0.0.1", [], "10.0.0.1"),  # the proxy itself
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("::ffff:10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("::1", ["203.0.113.9"], "203.0.113.9"),
        ("unix", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["198.51.100.7, 203.0.113.9"], "203.0.113.9"),  # forged on the left
        ("10.0.0.1", ["rubbish, 203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9, 10.0.0.2"], "203.0.113.9"),  # two of ours
        ("10.0.0.1", ["203.0.113.9", "10.0.0.2"], "203.0.113.9"),  # in two fields
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),  # all ours: the farthest
        ("10.0.0.1", ["203.0.113.9:4711"], "203.0.113.9"),
        ("10.0.0.1", ["2001:db8::1"], "2001:db8::1"),
        ("10.0.0.1", ["[2001:db8::1]"], "2001:db8::1"),
        ("10.0.0.1", ["[2001:db8::1]:443"], "2001:db8::1"),
        ("10.0.0.1", ["::ffff:203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", [" ,, 203.0.113.9 ,\t,"], "203.0.113.9"),
        ("10.0.0.1", [","], "10.0.0.1"),
    ],
)
def test_the_client_behind_proxies(peer: str, values: list[str], client: str) -> None:
    assert PROXIES.client(read_host(peer), values) == read_host(client)


@pytest.mark.parametrize(
    "said",
    ["unknown", "unix", "_hidden", "10.0.0.2x", "203.0.113.9:", "203.0.113.9:x", "[203.0.113.9]",
     "[2001:db8::1", "2001:db8::1]", "[2001:db8::1]443", "fe80::1%eth0", "a b", "203.0.113.9 1"],
)  # fmt: skip
def test_what_a_proxy_says_that_is_no_address_is_nobody(said: str) -> None:
    assert PROXIES.client(read_host("10.0.0.1"), [said]) is UNKNOWN
    assert PROXIES.client(read_host("10.0.0.1"), [f"203.0.113.9, {said}"]) is UNKNOWN


def test_hops_are_bounded() -> None:
    near = ", ".join(["203.0.113.9"] + ["10.0.0.2"] * (MAX_HOPS - 1))
    assert PROXIES.client(UNIX, [near]) == read_host("203.0.113.9")
    assert PROXIES.client(UNIX, ["203.0.113.9" + ", 10.0.0.2" * MAX_HOPS]) is UNKNOWN


@given(st.ip_addresses(), st.integers(0, 128), st.ip_addresses())
def test_networks_are_those_of_ipaddress(network, length: int, host) -> None:
    length = min(length, network.max_prefixlen)
    meant = ipaddress.ip_network((network, length), strict=False)
    if network.version == 6 and meant.network_address.ipv4_mapped is not None:
        return
    mapped = host.version == 6 and host.ipv4_mapped
    found = read_host(str(host)) in Network.parse(str(meant))
    assert found == ((mapped or host) in meant)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ()),
        ("  ", ()),
        ("unix", ("unix",)),
        (" allow unix ,deny  all", ("allow unix", "deny  all")),
    ],
)
def test_entries_of_an_option(text: str, found: tuple[str, ...]) -> None:
    assert entries(text) == found


def test_an_empty_entry_is_a_mistake() -> None:
    for text in ("allow unix,", ",", "allow unix,,deny all"):
        with pytest.raises(ValueError, match="'' is no rule"):
            Rules.parse(entries(text))
