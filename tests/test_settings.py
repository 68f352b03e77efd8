"""Settings: defaults < file < environment < flags; what is not known is an error that helps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from streamcache.config import TABLE, Config
from streamcache.errors import ConfigError
from streamcache.settings import load, variable

Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(text: str) -> str:
        path = tmp_path / "its.toml"
        path.write_text(text)
        return str(path)

    return to_file


def test_without_anything_all_values_are_defaults() -> None:
    settings = load(environ={})
    assert settings.config == Config()
    assert set(settings.origins.values()) == {"default"}
    assert set(settings.origins) == {f"{s}.{k}" for s in TABLE for k in TABLE[s]}


def test_a_flag_wins_over_the_environment_and_that_over_the_file(write: Write) -> None:
    file = write('[cache]\nsize = "1GB"\npolicy = "lru"\n[source]\nrevalidate = "1m"\n')
    environ = {"STREAMCACHE_CACHE_SIZE": "2GB", "STREAMCACHE_SOURCE_REVALIDATE": "2m", "PATH": "/"}
    settings = load(file=file, environ=environ, flags={"cache.size": "3GB"})
    config = settings.config
    assert config.cache.size == 3 * 10**9
    assert config.source.revalidate == 120.0
    assert config.cache.policy == "lru"
    assert settings.origins["cache.size"] == "--cache-size"
    assert settings.origins["source.revalidate"] == "$STREAMCACHE_SOURCE_REVALIDATE"
    assert settings.origins["cache.policy"] == file
    assert settings.origins["cache.dir"] == "default"


def test_the_default_of_workers_is_what_the_machine_says(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 3, 5})
    assert load(environ={}).config.server.workers == 3
    assert load(file=write('[server]\nworkers = "cores"'), environ={}).config.server.workers == 3
    assert load(environ={"STREAMCACHE_SERVER_WORKERS": "2"}).config.server.workers == 2
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(2000)))
    assert load(environ={}).config.server.workers == 1024


def test_a_file_may_hold_numbers_or_text_with_units(write: Write) -> None:
    file = write(
        "[cache]\nsize = 1e9\nhigh_watermark = 0.9\nlow_watermark = '80%'\ncleanup = false\n"
        "[copy]\nmax_bandwidth = '20MB/s'\n[limits]\nsend_timeout = 7\n"
    )
    config = load(file=file, environ={}).config
    assert config.cache.size == 10**9
    assert (config.cache.high_watermark, config.cache.low_watermark) == (0.9, 0.8)
    assert config.cache.cleanup is False
    assert config.copy.max_bandwidth == 20 * 10**6
    assert config.limits.send_timeout == 7.0


def test_the_environment_can_name_the_file(write: Write) -> None:
    file = write('[log]\nlevel = "error"\n')
    assert load(environ={"STREAMCACHE_CONFIG": file}).config.log.level == "error"


@pytest.mark.parametrize("word", ["true", "Yes", "on", "1"])
def test_a_switch_is_read_from_words(word: str) -> None:
    assert load(environ={"STREAMCACHE_CACHE_CLEANUP": word}).config.cache.cleanup is True


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[cahce]\nsize = 1", r"its\.toml: unknown section \[cahce\]; did you mean cache\?"),
        ("[zzz]", r"its\.toml: unknown section \[zzz\]; sections: source, cache, copy, server"),
        (
            '[cache]\nsizes = "1GB"',
            r"its\.toml: unknown option cache\.sizes = '1GB'; did you mean size\?",
        ),
        (
            "[log]\ncolour = 1",
            r"its\.toml: unknown option log\.colour = 1; options of \[log\]: lev",
        ),
        ("cache = 7", r"its\.toml: cache = 7: cache is a section, written \[cache\]"),
        ('[cache]\nsize = "10XB"', r"its\.toml: cache\.size: '10XB' is no size; allowed: bytes"),
        ('[cache]\nsize = "9999999TB"', r"size: '9999999TB' is not allowed.* at most 8191PiB: by"),
        ('[cache]\nsize = "1kB"', r"cache\.size: '1kB' is not allowed.* or at least 64KiB: bytes"),
        ("[cache]\nsize = []", r"its\.toml: cache\.size: \[\] is not allowed; allowed: 0 \(half"),
        ("[cache]\nsize = 2024-01-01", r"its\.toml: cache\.size: datetime\.date\(2024, 1, 1\) "),
        ("[cache]\ncleanup = 'maybe'", r"its\.toml: cache\.cleanup: 'maybe' .*true or false"),
        ("[cache]\nsize = true", r"its\.toml: cache\.size: True is not allowed"),
        ("[source]\nrevalidate = inf", r"its\.toml: source\.revalidate: inf is not allowed"),
        ("[cache]\nlow_watermark = 0.99", r"its\.toml: cache\.low_watermark: 0\.99 .*0\.95"),
        ("[server]\nworkers = 0", r"its\.toml: server\.workers: 0 .*at least 1"),
        ('[server]\nworkers = "core"', r"its\.toml: server\.workers: 'core' .*\"cores\""),
        ("[cache\nsize = 1", r"its\.toml: is not TOML: .*line 1"),
        ("[cache]\nsize = 1\nsize = 2", r"its\.toml: is not TOML: .*overwrite"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_the_file(
    write: Write, text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load(file=write(text), environ={})


def test_all_that_is_wrong_is_named_each_on_its_own(write: Write) -> None:
    file = write("[cahce]\n[cache]\nsize = []\nsizes = 1\npolicy = 'lru'\n[log]\nlevel = 'loud'\n")
    with pytest.raises(ConfigError) as caught:
        load(file=file, environ={"STREAMCACHE_X": "7"}, flags={"server.workers": "two"})
    starts = [
        *(f"{file}: unknown section [cahce]", f"{file}: cache.size: []"),
        *(f"{file}: unknown option cache.sizes = 1", f"{file}: log.level: 'loud'"),
        *("$STREAMCACHE_X: unknown option", "--workers: server.workers: 'two'"),
    ]
    assert len(caught.value.args) == len(starts)
    for problem, start in zip(caught.value.args, starts, strict=True):
        assert problem.startswith(start)
    assert str(caught.value) == "; ".join(caught.value.args)
    file = write('[cache]\nlow_watermark = 0.99\n[server]\numask = "8"\n')
    with pytest.raises(ConfigError) as caught:
        load(file=file, environ={})
    first, second = caught.value.args
    assert first.startswith(f"{file}: cache.low_watermark: 0.99")
    assert second.startswith(f"{file}: server.umask: '8'")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
        load(file=str(tmp_path / "none.toml"), environ={})
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.toml: is not TOML"):
        load(file=str(tmp_path / "latin.toml"), environ={})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "STREAMCACHE_CACHE_SIZ",
            "7",
            r"^\$STREAMCACHE_CACHE_SIZ: unknown option, .*'7'; did you mean STREAMCACHE_CACHE_SIZE",
        ),
        ("STREAMCACHE_X", "7", r"^\$STREAMCACHE_X: unknown option.*etc/streamcache\.toml"),
        ("STREAMCACHE_CACHE_SIZE", "", r"^\$STREAMCACHE_CACHE_SIZE: cache\.size: '' is no size"),
        ("STREAMCACHE_LIMITS_FIELDS", "1.5", r"^\$STREAMCACHE_LIMITS_FIELDS: limits\.fields"),
    ],
)
def test_what_is_wrong_in_the_environment_is_named(name: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(environ={name: value})


def test_variables_that_container_platforms_inject_are_let_pass() -> None:
    environ = dict.fromkeys(
        [
            "STREAMCACHE_SERVICE_HOST",
            "STREAMCACHE_SERVICE_PORT",
            "STREAMCACHE_SERVICE_PORT_HTTP",
            "STREAMCACHE_PORT",
            "STREAMCACHE_PORT_8080_TCP",
            "STREAMCACHE_PORT_8080_TCP_ADDR",
            "STREAMCACHE_EDGE_SERVICE_HOST",
        ],
        "tcp://10.0.0.1:8080",
    )
    assert load(environ=environ).config == Config()


def test_a_flag_that_is_wrong_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^--cache-size: cache\.size: '1 parsec' is no size"):
        load(environ={}, flags={"cache.size": "1 parsec"})


def test_a_section_found_wrong_as_a_whole_names_the_origin() -> None:
    with pytest.raises(ConfigError, match=r"^\$STREAMCACHE_CACHE_LOW_WATERMARK: cache\.low_wat"):
        load(environ={"STREAMCACHE_CACHE_LOW_WATERMARK": "0.97"})
    with pytest.raises(ConfigError, match=r"^cache\.low_watermark: 0\.85 .*which is 0\.5"):
        load(environ={"STREAMCACHE_CACHE_HIGH_WATERMARK": "0.5"})


def test_every_option_has_a_variable_of_its_own() -> None:
    names = [variable(section, key) for section in TABLE for key in TABLE[section]]
    assert len(set(names)) == len(names)
    assert "STREAMCACHE_CACHE_SIZE" in names
