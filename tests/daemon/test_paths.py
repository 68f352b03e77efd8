"""Where things are when nobody says where, and that paths are absolute from the start on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from streamcache.daemon.paths import absolute, default_cache_dir, resolve
from streamcache.settings import load


def test_root_has_its_cache_in_var() -> None:
    assert default_cache_dir({"XDG_CACHE_HOME": "/fast"}, 0) == "/var/cache/streamcache"


def test_others_have_it_in_their_cache_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert default_cache_dir({}, 1000) == "/home/ada/.cache/streamcache"
    assert default_cache_dir({"XDG_CACHE_HOME": "/fast"}, 1000) == "/fast/streamcache"
    # The specification: a relative one is to be ignored.
    assert default_cache_dir({"XDG_CACHE_HOME": "fast"}, 1000) == "/home/ada/.cache/streamcache"


def test_paths_become_absolute_and_keep_their_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "films").mkdir()
    (tmp_path / "link").symlink_to("films")
    flags = {"source.path": "link/", "cache.dir": "./cache", "server.listen": "unix:its.sock"}
    settings = load(environ={"STREAMCACHE_LOG_ACCESS": "access.log"}, flags=flags)
    config = resolve(settings).config
    assert config.source.path == os.fspath(tmp_path / "link")
    assert config.cache.dir == os.fspath(tmp_path / "cache")
    assert config.server.listen == f"unix:{tmp_path / 'its.sock'}"
    assert config.log.access == os.fspath(tmp_path / "access.log")


@pytest.mark.parametrize("name", ["-", "off"])
def test_an_access_log_that_is_no_file_stays_a_word(name: str) -> None:
    assert resolve(load(environ={"STREAMCACHE_LOG_ACCESS": name})).config.log.access == name


def test_a_home_directory_is_filled_in_only_in_front(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert absolute("~/films") == "/home/ada/films"
    assert absolute("~") == "/home/ada"
    assert absolute("/a/~/b") == "/a/~/b"
    assert absolute("~bob") == os.path.join(os.getcwd(), "~bob")


def test_what_was_resolved_keeps_its_origin() -> None:
    settings = resolve(load(environ={}, flags={"source.path": "/mnt"}))
    assert settings.where("source", "path") == "SOURCE: source.path"
    assert settings.where("cache", "dir") == "cache.dir"
