"""The media files are what the client tests take them for."""

from __future__ import annotations

from tests.media import Media, index_offset


def test_the_index_of_the_mp4_is_at_its_end(media: Media) -> None:
    path = media.root / media.mp4
    assert index_offset(path) > 0.9 * path.stat().st_size


def test_sizes_are_those_of_short_films(media: Media) -> None:
    for name in (media.mp4, media.mkv):
        assert 3_000_000 < (media.root / name).stat().st_size < 25_000_000


def test_the_playlist_names_the_segments(media: Media) -> None:
    lines = (media.root / media.playlist).read_text().splitlines()
    named = [f"hls/{line}" for line in lines if line and not line.startswith("#")]
    assert named == list(media.segments)
    assert len(named) >= 4
