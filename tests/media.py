"""Real media files, made with ffmpeg, of the kinds that are hard to stream.

A film is noise on purpose: it does not compress, so a few seconds of it have the size of minutes.
"""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.content import SETTLED

SECONDS = 12
FRAMES = 25  # a second


@dataclass(frozen=True, slots=True)
class Media:
    """A directory with the files; the paths are relative to it."""

    root: Path
    mp4: str  # its index (moov) is at the end, so a player must seek there before it can start
    mkv: str
    playlist: str  # HLS, in a directory of its own
    segments: tuple[str, ...]

    def files(self) -> tuple[str, ...]:
        """Every file."""
        return (self.mp4, self.mkv, self.playlist, *self.segments)


def make(ffmpeg: str, root: Path) -> Media:
    """Make the files under ``root``; they look finished (an hour old)."""
    _ffmpeg(
        ffmpeg,
        *("-f", "lavfi", "-i", f"testsrc2=size=640x360:rate={FRAMES}:duration={SECONDS}"),
        *("-f", "lavfi", "-i", f"sine=frequency=440:duration={SECONDS}"),
        *("-vf", "noise=alls=60:allf=t"),
        *("-c:v", "libx264", "-preset", "ultrafast", "-b:v", "8M", "-maxrate", "8M"),
        *("-bufsize", "8M", "-g", str(FRAMES * 2), "-pix_fmt", "yuv420p", "-c:a", "aac"),
        str(root / "film.mp4"),  # ffmpeg writes the index last unless told otherwise
    )
    film = ("-i", str(root / "film.mp4"), "-c", "copy")
    _ffmpeg(ffmpeg, *film, str(root / "film.mkv"))
    hls = root / "hls"
    hls.mkdir()
    _ffmpeg(
        ffmpeg,
        *film,
        *("-f", "hls", "-hls_time", "2", "-hls_playlist_type", "vod"),
        *("-hls_segment_filename", str(hls / "part%03d.ts"), str(hls / "film.m3u8")),
    )
    segments = tuple(sorted(f"hls/{path.name}" for path in hls.glob("*.ts")))
    changed = time.time() - SETTLED
    media = Media(root, "film.mp4", "film.mkv", "hls/film.m3u8", segments)
    for name in media.files():
        os.utime(root / name, (changed, changed))
    return media


def index_offset(path: Path) -> int:
    """Where the index (the ``moov`` box) of an MP4 file starts."""
    with open(path, "rb") as file:
        offset = 0
        while head := file.read(8):
            size, kind = int.from_bytes(head[:4]), head[4:]
            if size == 1:  # 64-bit size follows
                size = int.from_bytes(file.read(8))
            if kind == b"moov":
                return offset
            offset += size
            file.seek(offset)
    raise ValueError(f"{path}: no moov box")


def _ffmpeg(program: str, *arguments: str) -> None:
    subprocess.run(
        [program, "-nostdin", "-v", "error", "-y", *arguments],
        check=True,
        stdin=subprocess.DEVNULL,
        timeout=300,
    )
