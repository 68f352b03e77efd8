"""ffprobe and ffmpeg play what is cold, as they play the file itself."""

from __future__ import annotations

import json

import pytest

from tests.clients.conftest import Site, run
from tests.media import SECONDS, Media
from tests.requirements import program

KINDS = ["mp4", "mkv", "playlist"]


def streams(media_name: str) -> list[str]:
    """ffmpeg's arguments: the SHA-256 of each stream of a file or URL, nothing decoded."""
    return ["-i", media_name, "-map", "0", "-c", "copy", "-f", "streamhash", "-hash", "sha256", "-"]


def pictures(media_name: str, at: int) -> list[str]:
    """ffmpeg's arguments: the SHA-256 of five decoded pictures from second ``at`` on."""
    return [
        *("-ss", str(at), "-i", media_name, "-map", "0:v", "-frames:v", "5"),
        *("-f", "framehash", "-hash", "sha256", "-"),
    ]


def ffmpeg(*arguments: str) -> bytes:
    """What ffmpeg prints; an error while it reads is one here."""
    return run(program("ffmpeg"), "-nostdin", "-v", "error", "-xerror", *arguments)


@pytest.mark.parametrize("kind", KINDS)
def test_ffprobe_finds_the_same_as_in_the_file(theatre: Site, media: Media, kind: str) -> None:
    name = getattr(media, kind)
    ffprobe = (program("ffprobe"), "-v", "error", "-of", "json", "-show_streams", "-show_format")
    got = json.loads(run(*ffprobe, theatre.url(name)))
    expected = json.loads(run(*ffprobe, theatre.original(name)))
    assert got["streams"] == expected["streams"]
    assert float(got["format"]["duration"]) == pytest.approx(SECONDS, abs=0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_ffmpeg_plays_it_to_its_end(theatre: Site, media: Media, kind: str) -> None:
    name = getattr(media, kind)
    expected = ffmpeg(*streams(str(theatre.original(name))))
    assert expected.count(b"SHA256=") == 2  # picture and sound
    assert ffmpeg(*streams(theatre.url(name))) == expected
    assert theatre.read_once(*(media.segments if kind == "playlist" else (name,)))


@pytest.mark.parametrize("kind", KINDS)
def test_ffmpeg_seeks_to_its_end(theatre: Site, media: Media, kind: str) -> None:
    name = getattr(media, kind)
    at = SECONDS - 3
    expected = ffmpeg(*pictures(str(theatre.original(name)), at))
    assert expected.count(b"\n") >= 5
    assert ffmpeg(*pictures(theatre.url(name), at)) == expected
