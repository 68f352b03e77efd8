"""``streamcache config`` and ``check``."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from streamcache.config import TABLE
from tests.commands.running import call


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "s.toml"
    path.write_text('[cache]\nsize = "5GB"\n[copy]\nmax_idle = 7\n')
    return path


def test_every_setting_and_where_it_comes_from(file: Path) -> None:
    env = {"STREAMCACHE_SOURCE_REVALIDATE": "9s"}
    done = call("config", "/films", "--config", str(file), "--cache-size", "6GB", **env)
    assert (done.code, done.err) == (0, "")
    origins = {}
    for line in done.out.splitlines():
        left, origin = line.split("  # ", 1)
        name, value = left.split(" = ")
        origins[name] = (value.strip(), origin)
    assert set(origins) == {f"{section}.{key}" for section in TABLE for key in TABLE[section]}
    assert origins["source.path"] == ('"/films"', "SOURCE")
    assert origins["cache.size"] == ('"6GB"', "--cache-size")
    assert origins["copy.max_idle"] == ("7", str(file))
    assert origins["source.revalidate"] == ('"9s"', "$STREAMCACHE_SOURCE_REVALIDATE")
    assert origins["copy.when_idle"] == ('"finish"', "default")


def test_what_is_changed_is_a_file_with_these_settings(file: Path, tmp_path: Path) -> None:
    done = call("config", "/films", "--config", str(file), "--changed")
    assert tomllib.loads(done.out) == {
        "source": {"path": "/films"},
        "cache": {"size": "5GB"},
        "copy": {"max_idle": 7},
    }
    again = tmp_path / "again.toml"
    again.write_text(done.out)
    assert tomllib.loads(call("config", "--config", str(again), "--changed").out) == tomllib.loads(
        done.out
    )
    assert call("config", "--changed").out == "# every setting has its default\n"


def test_json(file: Path) -> None:
    told = json.loads(call("config", "--config", str(file), "--json").out)
    assert told["cache.size"] == {"value": 5_000_000_000, "origin": str(file)}


def test_check_is_serve_check(tmp_path: Path) -> None:
    source, cache = tmp_path / "films", tmp_path / "cache"
    source.mkdir()
    arguments = [str(source), "--cache-dir", str(cache), "--listen", "127.0.0.1:0"]
    one, other = call("check", *arguments), call("serve", *arguments, "--check")
    assert (one.code, one.out) == (0, other.out)
    assert one.out.startswith(f"# streamcache would serve {source} on 127.0.0.1:0")
    told = json.loads(call("check", *arguments, "--json").out)
    assert told["cache.dir"] == {"value": str(cache), "origin": "--cache-dir"}
    one, other = call("check", "/none"), call("serve", "/none", "--check")
    assert (one.code, one.err) == (2, other.err)
    assert "/none does not exist" in one.err
