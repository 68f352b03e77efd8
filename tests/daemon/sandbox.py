"""``sandbox.py UNIT UID GID WRITABLE... -- COMMAND``: runs it as systemd would, as far as we can.

What the unit says of system calls, socket families, capabilities, memory and the file system is
taken from it and put on this process, which then executes the command. Needs root, and no systemd
that runs. Only the standard library: it is run by any Python 3.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys

_LIBC = ctypes.CDLL(None, use_errno=True)
_ALLOW = 0x7FFF0000
_EPERM = 0x00050001
_EQUAL = 4  # SCMP_CMP_EQ
_NEW_MOUNTS = 0x00020000
_BIND = 4096
_RECURSIVE_PRIVATE = 16384 | (1 << 18)
_MOUNT_SETATTR = 442
_RECURSIVE = 0x8000
_READ_ONLY = 1


class _Attributes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "user"))


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


def directives(unit: str) -> dict[str, list[str]]:
    """The lines of a unit by name, each in its order."""
    found: dict[str, list[str]] = {}
    with open(unit, encoding="utf-8") as lines:
        for line in lines:
            name, equals, value = line.partition("=")
            if equals and not line.startswith("#"):
                found.setdefault(name, []).append(value.strip())
    return found


def members(group: str) -> set[str]:
    """The system calls of "@group", all the way down."""
    listed = subprocess.run(
        ["systemd-analyze", "syscall-filter", group], capture_output=True, text=True, check=True
    )
    names = [line.strip() for line in listed.stdout.splitlines()[1:]]
    calls: set[str] = set()
    for name in names:
        if name and not name.startswith("#"):
            calls |= members(name) if name.startswith("@") else {name}
    return calls


def allowed(lines: list[str]) -> set[str]:
    """What SystemCallFilter= lets through."""
    calls = members("@default")
    for line in lines:
        for name in line.removeprefix("~").split():
            meant = members(name) if name.startswith("@") else {name}
            calls = calls - meant if line.startswith("~") else calls | meant
    return calls


def check(result: int, what: str) -> None:
    if result < 0:
        code = ctypes.get_errno()
        sys.exit(f"sandbox: {what}: {os.strerror(code)}")


def read_only_but(writable: list[str]) -> None:
    """ProtectSystem=strict, with ReadWritePaths=."""
    check(_LIBC.unshare(_NEW_MOUNTS), "unshare")
    check(_LIBC.mount(b"none", b"/", None, _RECURSIVE_PRIVATE, None), "private mounts")
    for path in writable:
        name = os.fsencode(path)
        check(_LIBC.mount(name, name, None, _BIND, None), path)
    for path, attributes in (
        ("/", _Attributes(_READ_ONLY, 0, 0, 0)),
        *((path, _Attributes(0, _READ_ONLY, 0, 0)) for path in writable),
    ):
        check(
            _LIBC.syscall(
                *(_MOUNT_SETATTR, -100, os.fsencode(path), _RECURSIVE),
                *(ctypes.byref(attributes), ctypes.c_size_t(ctypes.sizeof(attributes))),
            ),
            f"mount_setattr {path}",
        )


def become(uid: int, gid: int) -> None:
    """User=, CapabilityBoundingSet= of nothing, NoNewPrivileges=, MemoryDenyWriteExecute=."""
    for capability in range(64):
        _LIBC.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP; there are fewer
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    check(_LIBC.prctl(38, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")
    check(_LIBC.prctl(65, 1, 0, 0, 0), "PR_SET_MDWE")


def filter_calls(calls: set[str], families: list[str]) -> None:
    """SystemCallFilter= and RestrictAddressFamilies=, with SystemCallErrorNumber=EPERM."""
    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(_EPERM)))
    for name in sorted(calls - {"socket"}):
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # else another architecture's
            seccomp.seccomp_rule_add_array(context, ctypes.c_uint32(_ALLOW), number, 0, None)
    number = seccomp.seccomp_syscall_resolve_name(b"socket")
    for family in families:
        rule = _Comparison(0, _EQUAL, getattr(socket, family), 0)
        seccomp.seccomp_rule_add_array(
            context, ctypes.c_uint32(_ALLOW), number, 1, ctypes.byref(rule)
        )
    if seccomp.seccomp_load(context) < 0:
        sys.exit("sandbox: no system call filter")


def main(arguments: list[str]) -> None:
    unit, uid, gid, *rest = arguments
    at = rest.index("--")
    writable, command = rest[:at], rest[at + 1 :]
    said = directives(unit)
    calls = allowed(said["SystemCallFilter"])
    assert said["ProtectSystem"] == ["strict"]
    assert said["CapabilityBoundingSet"] == [""]
    assert said["NoNewPrivileges"] == said["MemoryDenyWriteExecute"] == ["yes"]
    read_only_but(writable)
    become(int(uid), int(gid))
    filter_calls(calls, said["RestrictAddressFamilies"][0].split())
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
