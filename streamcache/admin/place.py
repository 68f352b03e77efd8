"""Where the admin sockets of this machine are, and what each server's is called.

Runs before anything is served, and in commands that look for a server.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from streamcache.server.address import Address

SUFFIX: Final = ".sock"

SYSTEM_DIRECTORY: Final = "/run/streamcache"
_SHOWN: Final = 32  # characters of a long name: the path of a Unix socket has 107 bytes


def default_directory(environ: Mapping[str, str], user: int) -> str:
    """Where the sockets are when nobody says where.

    What systemd made for the service (systemd.exec, RuntimeDirectory=), else below the user's
    runtime directory (XDG Base Directory Specification), else below /tmp.
    """
    made = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if os.path.isabs(made):
        return made
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime):
        return os.path.join(runtime, "streamcache")
    if user == 0:
        return SYSTEM_DIRECTORY
    runtime = f"/run/user/{user}"
    if os.path.isdir(runtime):
        return os.path.join(runtime, "streamcache")
    return os.path.join(tempfile.gettempdir(), f"streamcache-{user}")


def make_directory(path: str) -> None:
    """Have it there, for us alone to make names in; OSError when others could, or it cannot be."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(f"{path} is not a directory")
    if found.st_uid not in (os.geteuid(), 0) or found.st_mode & 0o022:
        raise PermissionError(f"{path} can be written by others")


def socket_name(listen: Address) -> str:
    """What the socket of the server that listens there is called: "127.0.0.1-8080.sock"."""
    if not listen.path:
        return f"{listen.host or '*'}-{listen.port}{SUFFIX}"
    digest = hashlib.sha256(os.fsencode(listen.path)).hexdigest()[:8]
    return f"unix-{os.path.basename(listen.path)[:_SHOWN]}-{digest}{SUFFIX}"


def sockets_in(directory: str) -> list[str]:
    """The paths of the servers' sockets there, dead ones too; none when it cannot be read."""
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return [os.path.join(directory, name) for name in sorted(names) if name.endswith(SUFFIX)]
