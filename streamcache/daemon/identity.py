"""Which user the daemon is, once it has what only root can have.

In the main process, before it has a hub, a thread or a child.
"""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass
from typing import Self

import streamcache
from streamcache.errors import ConfigError
from streamcache.settings import Settings


@dataclass(frozen=True, slots=True)
class Identity:
    """A user with its groups."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]

    @classmethod
    def wanted(cls, settings: Settings) -> Self | None:
        """What ``server.user`` and ``server.group`` ask for; None: nothing. ConfigError."""
        server = settings.config.server
        if not (server.user or server.group):
            return None
        gid = _group(settings) if server.group else None
        if not server.user:
            assert gid is not None
            uid = os.geteuid()
            return cls(user_name(uid), uid, gid, (gid,))
        user = _user(settings)
        if user is None:  # a number without a name has no groups of its own
            if gid is None:
                raise ConfigError(
                    f"{settings.where('server', 'user')}: {server.user} has no entry in the user"
                    " database, so no group; allowed: a user's name, or a number with server.group"
                )
            return cls(server.user, int(server.user), gid, (gid,))
        gid = user.pw_gid if gid is None else gid
        return cls(user.pw_name, user.pw_uid, gid, tuple(os.getgrouplist(user.pw_name, gid)))

    @property
    def is_ours(self) -> bool:
        """Whether this process is that already, for good."""
        uids, gids = os.getresuid(), os.getresgid()
        return set(uids) == {self.uid} and set(gids) == {self.gid}

    def become(self, settings: Settings) -> None:
        """Be that and nothing else, with no way back. ConfigError when that is not allowed."""
        if self.is_ours and os.geteuid() != 0:
            return
        try:
            os.setgroups(self.groups)  # else those of root stay
            os.setresgid(self.gid, self.gid, self.gid)
            os.setresuid(self.uid, self.uid, self.uid)
        except PermissionError:
            key = "user" if settings.config.server.user else "group"
            raise ConfigError(
                f"{settings.where('server', key)}: only root can become {self.name};"
                f" this is {user_name(os.geteuid())}; allowed: start as root, or without it"
            ) from None
        # Much is imported later, and an upgrade starts it all again.
        for path in (os.path.dirname(os.__file__), os.path.dirname(streamcache.__file__)):
            if not os.access(path, os.R_OK | os.X_OK):
                raise ConfigError(
                    f"{settings.where('server', 'user')}: {self.name} cannot read {path}, which"
                    " runs the server; allowed: an installation that every user can read"
                )


def _user(settings: Settings) -> pwd.struct_passwd | None:
    """Its entry; None for a number that has none."""
    text = settings.config.server.user
    try:
        return pwd.getpwuid(int(text)) if text.isdigit() else pwd.getpwnam(text)
    except KeyError:
        if text.isdigit():
            return None
        raise ConfigError(
            f"{settings.where('server', 'user')}: there is no user {text!r};"
            " allowed: the name or number of a user of this machine"
        ) from None


def _group(settings: Settings) -> int:
    text = settings.config.server.group
    if text.isdigit():
        return int(text)
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        raise ConfigError(
            f"{settings.where('server', 'group')}: there is no group {text!r};"
            " allowed: the name or number of a group of this machine"
        ) from None


def user_name(uid: int) -> str:
    """The name of a user, or the number of one that has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
