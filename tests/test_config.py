"""The table of options: complete, and every section checks its values at birth."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import pytest

from streamcache.config import SECTIONS, TABLE, Config, changed, default_of
from streamcache.config.access import AccessConfig
from streamcache.config.cache import CacheConfig
from streamcache.config.copy import CopyConfig
from streamcache.config.limits import LimitsConfig
from streamcache.config.log import LogConfig
from streamcache.config.server import ServerConfig
from streamcache.config.source import SourceConfig
from streamcache.errors import ConfigError
from streamcache.options import Kind

EVERY = [(section, key) for section in TABLE for key in TABLE[section]]
TYPES = {
    Kind.SIZE: int,
    Kind.DURATION: float,
    Kind.SHARE: float,
    Kind.COUNT: int,
    Kind.BOOL: bool,
    Kind.PATH: str,
    Kind.TEXT: str,
}


def test_the_table_has_every_section_of_the_configuration() -> None:
    assert list(SECTIONS) == [field.name for field in dataclasses.fields(Config)]
    for name, section in SECTIONS.items():
        assert type(getattr(Config(), name)) is section


@pytest.mark.parametrize(("section", "key"), EVERY)
def test_every_option_has_the_kind_of_its_type_and_a_reason(section: str, key: str) -> None:
    option = TABLE[section][key]
    declared = typing.get_type_hints(SECTIONS[section])[key]
    if option.kind is Kind.CHOICE:
        assert option.choices == typing.get_args(declared)
    else:
        assert TYPES[option.kind] is declared
    assert len(option.why) > 20
    assert not option.why.endswith(".")
    assert option.why[0].islower()


@pytest.mark.parametrize(("section", "key"), EVERY)
def test_every_default_reads_back_from_how_it_is_written(section: str, key: str) -> None:
    option, default = TABLE[section][key], default_of(section, key)
    text = option.format(default).strip('"')
    assert option.parse(text) == default
    assert type(option.parse(text)) is type(default)


def test_the_flags_are_those_of_the_contract() -> None:
    flags = {
        option.flag: f"{section}.{key}"
        for section, options in TABLE.items()
        for key, option in options.items()
        if option.flag
    }
    assert flags == {
        "SOURCE": "source.path",
        "--listen": "server.listen",
        "--cache-dir": "cache.dir",
        "--cache-size": "cache.size",
        "--workers": "server.workers",
        "--admin": "server.admin",
        "--user": "server.user",
        "--group": "server.group",
        "--pid-file": "server.pid_file",
        "--revalidate": "source.revalidate",
        "--log-level": "log.level",
    }


BAD: list[tuple[type[Any], dict[str, object], str]] = [
    (SourceConfig, {"revalidate": -1}, r"source\.revalidate: -1 .*seconds as a plain number"),
    (SourceConfig, {"revalidate": float("inf")}, r"source\.revalidate: inf "),
    (SourceConfig, {"revalidate": float("nan")}, r"source\.revalidate: nan "),
    (SourceConfig, {"revalidate": "2s"}, r"source\.revalidate: '2s' "),
    (SourceConfig, {"revalidate": True}, r"source\.revalidate: True "),
    (SourceConfig, {"timeout": 0}, r"source\.timeout: 0 .*at least 1ms"),
    (SourceConfig, {"identity": "inode"}, r"source\.identity: 'inode' .*mtime, mtime\+ctime"),
    (SourceConfig, {"workers": 0}, r"source\.workers: 0 .*at least 1 and at most 1024"),
    (SourceConfig, {"workers": 2.5}, r"source\.workers: 2\.5 .*whole number"),
    (SourceConfig, {"path": 7}, r"source\.path: 7 .*a path"),
    (SourceConfig, {"path": "a\0b"}, r"source\.path: 'a\\x00b' .*a path"),
    (CacheConfig, {"size": -1}, r"cache\.size: -1 .*0 \(half of the free space.*64KiB"),
    (CacheConfig, {"size": 10}, r"cache\.size: 10 .*at least 64KiB"),
    (CacheConfig, {"size": 2**63}, r"size: 9223372036854775808 .*64KiB and at most 8191PiB: bytes"),
    (
        SourceConfig,
        {"revalidate": 1e12},
        r"revalidate: 1000000000000\.0 .*asks\) or at most 3650d: seconds",
    ),
    (LimitsConfig, {"connections": 1 << 31}, r"connections: 2147483648 .* or at most 2147483647: "),
    (CacheConfig, {"high_watermark": 1.5}, r"cache\.high_watermark: 1\.5 .*from 0 to 1"),
    (
        CacheConfig,
        {"high_watermark": 95},
        r"high_watermark: 95 .*, or a percentage such as \"95%\"",
    ),
    (CacheConfig, {"low_watermark": 0.96}, r"cache\.low_watermark: 0\.96 .*less than .*0\.95"),
    (CacheConfig, {"low_watermark": 0.0}, r"cache\.low_watermark: 0\.0 .*more than 0"),
    (CacheConfig, {"policy": "fifo"}, r"cache\.policy: 'fifo' .*s3fifo, lru"),
    (CacheConfig, {"cleanup": 1}, r"cache\.cleanup: 1 .*true or false"),
    (CopyConfig, {"max_bandwidth": 10}, r"copy\.max_bandwidth: 10 .*0 \(no limit\)"),
    (ServerConfig, {"workers": 0}, r'server\.workers: 0 .*"cores" \(one for each core that'),
    (ServerConfig, {"workers": 1025}, r"server\.workers: 1025 .*at least 1 and at most 1024"),
    (ServerConfig, {"workers": "cores"}, r"server\.workers: 'cores' is not allowed"),
    (
        ServerConfig,
        {"listen": 8080},
        r"listen: 8080 .*allowed: text in quotes: HOST:PORT, \[IPv6\]",
    ),
    (ServerConfig, {"umask": 27}, r"server\.umask: 27 .*allowed: text in quotes: octal digits"),
    (AccessConfig, {"realm": 1}, r"access\.realm: 1 .*allowed: text in quotes$"),
    (AccessConfig, {"networks": "alow all"}, r"access\.networks: 'alow all' is no rule; allowed"),
    (AccessConfig, {"networks": ","}, r"access\.networks: '' is no rule"),
    (AccessConfig, {"trusted_proxies": "x"}, r"access\.trusted_proxies: 'x' is no network; allow"),
    (AccessConfig, {"proxy_protocol": True}, r"access\.proxy_protocol: nobody could connect"),
    (AccessConfig, {"realm": ""}, r"access\.realm: '' is no realm"),
    (LimitsConfig, {"ranges": 0}, r"limits\.ranges: 0 .*at least 1"),
    (LogConfig, {"level": "loud"}, r"log\.level: 'loud' .*debug, info, warning, error"),
    (LogConfig, {"format": "xml"}, r"log\.format: 'xml' .*combined, json"),
    (LogConfig, {"fields": "time, stats"}, r"log\.fields: 'stats' is no field; allowed: time, cl"),
    (LogConfig, {"fields": "time,time"}, r"log\.fields: time comes twice"),
    (LogConfig, {"fields": "", "format": "json"}, r"log\.fields: '' names nothing; allowed: time"),
    (LogConfig, {"ignore_networks": "10.0.0.1/8"}, r"log\.ignore_networks: .* write 10\.0\.0\.0/8"),
    (LogConfig, {"ignore_networks": "::1,"}, r"log\.ignore_networks: '' is no network; allowed"),
    (LogConfig, {"ignore_paths": "/a,b*"}, r"log\.ignore_paths: 'b\*' fits no path; allowed: glob"),
    (LogConfig, {"ignore_paths": "/a[b"}, r"log\.ignore_paths: glob '/a\[b': a \[ is not closed"),
    (LogConfig, {"sample": 1.5}, r"log\.sample: 1\.5 .*from 0 to 1"),
]


@pytest.mark.parametrize(("section", "values", "message"), BAD)
def test_a_value_that_is_not_allowed_is_never_born(
    section: type[Any], values: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        section(**values)


def test_values_get_the_type_of_their_kind() -> None:
    assert type(SourceConfig(revalidate=5).revalidate) is float
    assert type(CacheConfig(size=typing.cast(int, 1e9)).size) is int


def test_zero_is_allowed_where_it_means_something() -> None:
    assert CacheConfig(size=0, max_file_size=0).size == 0
    assert CopyConfig(max_bandwidth=0).max_bandwidth == 0


def test_one_section_can_be_changed_and_is_checked() -> None:
    config = changed(Config(), "cache", size=10**9)
    assert config.cache.size == 10**9
    assert config.source is not None
    with pytest.raises(ConfigError, match=r"cache\.size"):
        changed(config, "cache", size=-1)


def test_a_long_value_is_shown_cut_off() -> None:
    with pytest.raises(ConfigError) as caught:
        LogConfig(level=typing.cast(typing.Any, "x" * 10_000))
    assert len(str(caught.value)) < 200
