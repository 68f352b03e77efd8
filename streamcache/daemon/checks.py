"""What must be true before the daemon starts. Every failure is a ConfigError of one line.

Runs in the main thread before anything is served, so it may block on the source.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import stat
from typing import Final

from streamcache.admin.sockets import parse as parse_admin
from streamcache.cache.digests import digest_of_copies
from streamcache.cache.ownership import expect_cache
from streamcache.daemon.identity import user_name
from streamcache.errors import CacheForeign, ConfigError
from streamcache.server.accessfiles import read_access
from streamcache.server.address import Address, SocketFile
from streamcache.settings import Settings
from streamcache.source.mounts import mount_of
from streamcache.units import MiB, format_size

log = logging.getLogger(__name__)

# File systems whose disk is in another machine: slow, and without the locks, the durable rename
# and the truthful st_blocks that the cache relies on (design section 5).
_NETWORK: Final = (
    *("9p", "afs", "beegfs", "ceph", "cifs", "coda", "glusterfs", "gpfs", "lustre", "ncpfs"),
    *("nfs", "nfs4", "ocfs2", "orangefs", "pvfs2", "smb2", "smb3", "smbfs", "vmhgfs"),
)
_NETWORK_FUSE: Final = (
    *("ceph-fuse", "cephfs", "curlftpfs", "cvmfs2", "davfs", "gcsfuse", "geesefs", "glusterfs"),
    *("goofys", "httpdirfs", "juicefs", "mfs", "mount-s3", "mountpoint-s3", "rclone", "s3fs"),
    *("seaweedfs", "smbnetfs", "sshfs"),
)
# Those of the kernel, in which nobody can make a directory of their own, root included.
_KERNEL: Final = (
    *("binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "efivarfs"),
    *("fusectl", "mqueue", "proc", "pstore", "securityfs", "selinuxfs", "sysfs", "tracefs"),
)
_PORTS_OF_ROOT: Final = "/proc/sys/net/ipv4/ip_unprivileged_port_start"

_ADDRESS_ERRORS: Final = frozenset(
    {
        errno.EADDRINUSE,
        errno.EADDRNOTAVAIL,
        errno.EACCES,
        errno.EPERM,
        errno.EAFNOSUPPORT,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EROFS,
        errno.ENAMETOOLONG,
    }
)


def check(settings: Settings) -> None:
    """Check resolved settings against the machine, all but whether the address is free."""
    check_source(settings)
    check_cache_dir(settings)
    check_apart(settings)
    check_checksum(settings)
    check_access_log(settings)
    check_access(settings)
    check_certificate(settings)
    parse_address(settings)
    parse_admin(settings)


def check_source(settings: Settings) -> None:
    """The source is a directory that can be listed."""
    path = settings.config.source.path
    where = settings.where("source", "path")
    if not path:
        raise ConfigError(
            "no SOURCE given; allowed: a directory, as in: streamcache serve /mnt/films"
        )
    try:
        with os.scandir(path):
            pass
    except NotADirectoryError:
        raise ConfigError(f"{where}: {path} is not a directory; allowed: a directory") from None
    except FileNotFoundError:
        raise ConfigError(f"{where}: {path} does not exist; allowed: a directory") from None
    except OSError as error:
        raise ConfigError(
            f"{where}: {path} cannot be read ({error.strerror}); allowed: a readable directory"
        ) from None


def check_cache_dir(settings: Settings) -> None:
    """The cache directory can be made, or is empty or a cache; writable, and on a local disk.

    Changes nothing.
    """
    path = settings.config.cache.dir
    where = settings.where("cache", "dir")
    there = _closest(where, path)
    if not os.path.isdir(there):
        raise ConfigError(f"{where}: {there} is not a directory; allowed: a writable directory")
    mount = mount_of(os.path.realpath(path))
    if mount is not None and is_network(mount.type):
        raise ConfigError(
            f"{where}: {path} is on a network file system ({mount.type} at {mount.point});"
            " allowed: a directory on a local disk"
        )
    if mount is not None and mount.type in _KERNEL:
        raise ConfigError(
            f"{where}: {path} cannot be made: {mount.point} is the kernel's ({mount.type}), and no"
            " disk; allowed: a directory on a local disk"
        )
    owner, user = os.stat(there).st_uid, os.geteuid()
    if there == path and user not in (0, owner):
        raise ConfigError(
            f"{where}: {path} belongs to {user_name(owner)}, and the server runs as"
            f" {user_name(user)}; allowed: a directory of that user's own, as made by install -d"
            f" -o {user_name(user)} -m 700"
        )
    if not os.access(there, os.W_OK | os.X_OK):
        problem = "is not writable" if there == path else f"cannot be made: {there} is not writable"
        raise ConfigError(f"{where}: {path} {problem}; allowed: a writable directory")
    try:
        expect_cache(path)
    except CacheForeign as error:
        raise ConfigError(f"{where}: {error}") from None
    except OSError as error:
        raise ConfigError(
            f"{where}: {path} cannot be read ({error.strerror}); allowed: a directory of one's own"
        ) from None
    _warn_of_size(settings, there)


def _closest(where: str, path: str) -> str:
    """``path``, or the closest directory above it that is there."""
    there = path
    while True:
        try:
            os.lstat(there)
            return there
        except (FileNotFoundError, NotADirectoryError):
            there = os.path.dirname(there)
        except OSError as error:
            raise ConfigError(
                f"{where}: {path} cannot be made: {error.strerror}; allowed: a writable directory"
            ) from None


def _warn_of_size(settings: Settings, there: str) -> None:
    """Less would be cached than was asked for, whatever else lies there is removed."""
    disk = os.statvfs(there)
    size, most = settings.config.cache.size, disk.f_blocks * disk.f_frsize
    if 0 < most < size:  # 0: it does not tell
        log.warning(
            "%s: %s is more than the file system of %s holds at all, %d MiB",
            *(settings.where("cache", "size"), format_size(size)),
            *(settings.config.cache.dir, most // MiB),
        )


def warn_of_owner(settings: Settings) -> None:
    """Root may look for the user whose cache it is, and cannot itself serve with it."""
    path = settings.config.cache.dir
    if os.geteuid() == 0 and os.path.isdir(path) and (owner := os.stat(path).st_uid) != 0:
        log.warning(
            "%s: %s belongs to %s: only a server that runs as that user can use it",
            *(settings.where("cache", "dir"), path, user_name(owner)),
        )


def check_checksum(settings: Settings) -> None:
    """The package that digests are made with is there, if there are to be any."""
    if settings.config.cache.checksum != "off":
        digest_of_copies(settings.where("cache", "checksum"))


def check_apart(settings: Settings) -> None:
    """Neither of source and cache directory lies inside the other, by whatever name."""
    source, cache = settings.config.source.path, settings.config.cache.dir
    where = settings.where("cache", "dir")
    if _is_inside(cache, source):
        raise ConfigError(
            f"{where}: {cache} is inside the source {source}, so clients could fetch the cache"
            " itself; allowed: a directory outside of the source"
        )
    if _is_inside(source, cache):
        raise ConfigError(
            f"{where}: the source {source} is inside the cache directory {cache}; allowed: a"
            " directory of its own"
        )


def check_access_log(settings: Settings) -> None:
    """The access log can be appended to. It is opened later, by the server."""
    path = settings.config.log.access
    if path in ("-", "off"):
        return
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC))
        return
    except FileNotFoundError:
        directory = os.path.dirname(path)
        if os.access(directory, os.W_OK | os.X_OK):
            return
        problem = f"{directory} is no writable directory"
    except OSError as error:
        if error.errno == errno.ENXIO and stat.S_ISFIFO(os.stat(path).st_mode):
            return  # nobody reads it yet
        problem = (error.strerror or str(error)).lower()
    raise ConfigError(
        f"{settings.where('log', 'access')}: {path} cannot be written: {problem}; allowed: a file,"
        ' "-" for stderr, or "off"'
    )


def check_access(settings: Settings) -> None:
    """The files that [access] names can be used; they are read again by the server."""
    try:
        read_access(settings.config.access)
    except ConfigError as error:
        name, _, problem = str(error).partition(": ")
        raise ConfigError(f"{settings.where(*name.split('.'))}: {problem}") from None
    _warn_of_others(settings.config.access.keys, settings.config.access.htpasswd)


def check_certificate(settings: Settings) -> None:
    """The certificate and its key can be used; they are read again by the server."""
    server = settings.config.server
    if not server.tls_certificate:
        return
    from streamcache.server.certificate import Certificate  # who does without needs no OpenSSL

    try:
        Certificate(server)
    except ConfigError as error:
        name, _, problem = str(error).partition(": ")
        raise ConfigError(f"{settings.where(*name.split('.'))}: {problem}") from None
    _warn_of_others(server.tls_key or server.tls_certificate)


def _warn_of_others(*secrets: str) -> None:
    for path in secrets:
        mode = os.stat(path).st_mode if path else 0
        if can := [word for bit, word in ((0o004, "read"), (0o002, "written")) if mode & bit]:
            log.warning("%s can be %s by every user of this machine", path, " and ".join(can))


def check_address(settings: Settings) -> None:
    """The address is one of this machine; it is let go again at once.

    One in use is said and no error: mostly it is by the server that is about to be reloaded.
    """
    address = parse_address(settings)
    try:
        listener = address.bind(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE and not _is_no_socket(address.path):
            where, text = settings.where("server", "listen"), settings.config.server.listen
            log.warning("%s: %s is in use, by a server that runs or another program", where, text)
            return
        raise cannot_listen(settings, error) from None
    if address.path:
        SocketFile(address.path).remove()
    listener.close()


def _is_no_socket(path: str) -> bool:
    return bool(path) and not stat.S_ISSOCK(os.lstat(path).st_mode)


def check_pid_file(settings: Settings) -> None:
    """The pid file can be written. It is not, and a server that runs may have it."""
    path = settings.config.server.pid_file
    if not path:
        return
    there = os.path.lexists(path)
    if not os.access(path if there else os.path.dirname(path), os.W_OK):
        problem = "it" if there else os.path.dirname(path)
        raise ConfigError(
            f"{settings.where('server', 'pid_file')}: {path} cannot be written: {problem} is not"
            " there or not writable; allowed: a file in a directory that is there"
        )


def parse_address(settings: Settings) -> Address:
    """Where to listen. ConfigError."""
    text = settings.config.server.listen
    try:
        address = Address.parse(text)
    except ValueError as error:
        problem = f"{text!r}: {error}"
    else:
        if address.path or address.host:
            return address
        problem = f"{text!r} has no host; 0.0.0.0 and [::] stand for all addresses"
    raise ConfigError(
        f"{settings.where('server', 'listen')}: {problem};"
        " allowed: HOST:PORT (port 0 to 65535), [IPv6]:PORT or unix:PATH"
    )


def cannot_listen(settings: Settings, error: OSError) -> ConfigError:
    """The one line about an address that cannot be had."""
    text = settings.config.server.listen
    reason = (error.strerror or str(error)).lower()
    more = ""
    if error.errno in (errno.EACCES, errno.EPERM) and (first := _ports_of_root(text)):
        reason += f", as ports below {first} need root or the right CAP_NET_BIND_SERVICE"
        more = f" from {first} on"
    return ConfigError(
        f"{settings.where('server', 'listen')}: cannot listen on {text}: {reason};"
        f" allowed: an address of this machine and a port{more} that is free (port 0 takes any)"
    )


def _ports_of_root(listen: str) -> int:
    """The first port that everybody may listen on, if this one lies below it, else 0."""
    address = Address.parse(listen)
    try:
        with open(_PORTS_OF_ROOT, encoding="ascii") as file:
            first = int(file.read())
    except (OSError, ValueError):
        first = 1024
    return first if not address.path and 0 < address.port < first else 0


def is_address_error(error: OSError) -> bool:
    """Whether another address would do."""
    return isinstance(error, socket.gaierror) or error.errno in _ADDRESS_ERRORS


def is_network(type_: str) -> bool:
    """Whether a file system of this type keeps its data in another machine."""
    name, _, subtype = type_.partition(".")
    if name in ("fuse", "fuseblk"):
        return subtype in _NETWORK_FUSE
    return name in _NETWORK


def _is_inside(path: str, directory: str) -> bool:
    """Whether ``path``, which need not exist, is ``directory`` or lies below it."""
    try:
        sought = os.stat(directory)
    except OSError:
        return False
    here = os.path.realpath(path)
    while True:
        # By identity, as a bind mount gives one directory two real paths.
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(here), sought):
                return True
        parent = os.path.dirname(here)
        if parent == here:
            return False
        here = parent
