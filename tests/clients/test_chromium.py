"""A <video> in Chromium: plays a cold film whose index is at its end, and seeks in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import Browser, browser, complaints, until
from tests.clients.conftest import Site
from tests.media import SECONDS, Media

PAGE = "<!doctype html><title>film</title><video src=film.mp4 preload=auto muted></video>"


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[Browser]:
    with browser(tmp_path / "profile") as driver:
        yield driver


def test_a_film_plays_and_can_be_sought_in_while_it_is_copied(
    theatre: Site, media: Media, chromium: Browser
) -> None:
    (theatre.slowfs.backing / "player.html").write_text(PAGE)

    def video(expression: str) -> float:
        return chromium.execute_script(
            f"const video = document.querySelector('video'); return {expression}"
        )

    chromium.get(theatre.url("player.html"))
    until(lambda: video("video.readyState") >= 1)  # it has found the index
    assert video("video.duration") == pytest.approx(SECONDS, abs=0.5)
    chromium.execute_script("document.querySelector('video').play()")
    until(lambda: video("video.currentTime") > 0.5)
    at = SECONDS - 4
    chromium.execute_script(f"document.querySelector('video').currentTime = {at}")
    until(lambda: not video("video.seeking") and video("video.currentTime") > at + 0.5)
    assert video("video.error ? video.error.code : 0") == 0
    assert video("video.getVideoPlaybackQuality().totalVideoFrames") > 10
    assert theatre.read_once(media.mp4)
    assert '"GET /film.mp4 HTTP/1.1" 206 ' in theatre.server.log, "ranges, not one long answer"
    assert [line for line in complaints(chromium) if "favicon" not in line] == []
