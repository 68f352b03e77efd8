from __future__ import annotations

import re

import pytest

from streamcache.http.mime import DEFAULT, content_type


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/a.mp4", "video/mp4"),
        ("/a.MP4", "video/mp4"),
        ("/a.m4v", "video/mp4"),
        ("/seg-1.m4s", "video/iso.segment"),
        ("/a.mkv", "video/x-matroska"),
        ("/a.webm", "video/webm"),
        ("/a.ts", "video/mp2t"),
        ("/a.m3u8", "application/vnd.apple.mpegurl"),
        ("/a.mpd", "application/dash+xml"),
        ("/a.flv", "video/x-flv"),
        ("/a.mov", "video/quicktime"),
        ("/a.avi", "video/x-msvideo"),
        ("/a.ogv", "video/ogg"),
        ("/a.mp3", "audio/mpeg"),
        ("/a.m4a", "audio/mp4"),
        ("/a.aac", "audio/aac"),
        ("/a.ogg", "audio/ogg"),
        ("/a.oga", "audio/ogg"),
        ("/a.opus", "audio/ogg"),
        ("/a.flac", "audio/flac"),
        ("/a.wav", "audio/wav"),
        ("/a.vtt", "text/vtt"),
        ("/a.srt", "application/x-subrip"),
        ("/a.jpg", "image/jpeg"),
        ("/a.png", "image/png"),
        ("/a.webp", "image/webp"),
        ("/a.txt", "text/plain"),
        ("/a.html", "text/html"),
        ("/a.css", "text/css"),
        ("/a.js", "text/javascript"),
        ("/a.json", "application/json"),
        ("/a.xml", "application/xml"),
        ("/a.pdf", "application/pdf"),
        ("/a.zip", "application/zip"),
        ("/a.tar", "application/x-tar"),
        ("/a.tar.gz", "application/gzip"),
        ("/a.iso", "application/x-iso9660-image"),
        ("/a.parquet", "application/vnd.apache.parquet"),
        ("/a.bin", DEFAULT),
        ("/a.unheard-of", DEFAULT),
        ("/a", DEFAULT),
        ("/a.", DEFAULT),
        ("/.mp4", DEFAULT),
        ("/a.mp4/b", DEFAULT),
        ("/", DEFAULT),
        ("", DEFAULT),
        ("/\udcff.mp4", "video/mp4"),
    ],
)
def test_the_extension_decides_in_any_case(path: str, wanted: str):
    assert content_type(path) == wanted
    if path.count("."):
        stem, _, extension = path.rpartition(".")
        assert content_type(f"{stem}.{extension.upper()}") == wanted


def test_every_type_is_a_plain_media_type():
    from streamcache.http.mime import _TYPES

    for extension, name in _TYPES.items():
        assert re.fullmatch(r"[a-z0-9]+", extension)
        assert re.fullmatch(r"(video|audio|image|text|application|font)/[a-z0-9.+-]+", name)
