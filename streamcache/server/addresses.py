"""How many connections each client address has: what ``limits.per_address`` is about.

Several workers accept from one listener, and who of them gets a client's connections is chance. So
they count together, in memory that they share and that is made before the first fork: a row of
counts for each worker, which it alone writes. A worker that dies takes its connections with it,
and whoever watches over it clears its row.

An address stands for two of a row's counts, by a hash with a secret key, and has as many
connections as the smaller of their two sums over all rows. So a look costs a few microseconds
however many addresses there are, and nobody can fill this memory. The price: an address that
shares both counts with busy ones is refused too early. With 10,000 connections of as many
addresses, one in a million then has four more than it has.

Hub; no locks. Two workers that accept at the same moment may each take the last place.
"""

from __future__ import annotations

import hashlib
import mmap
import secrets
import socket
from typing import Final

_COUNTS: Final = 1 << 16  # in a row, 256 KiB of which only what is used takes memory
_WORD: Final = 4  # bytes of a count

Place = tuple[int, int]  # which two counts stand for an address


class AddressRow:
    """The counts of one worker, and a look at those of all."""

    def __init__(self, rows: list[memoryview], index: int, key: bytes) -> None:
        self._own = rows[index]
        self._rows = rows
        self._key = key

    def place(self, name: str) -> Place | None:
        """Where this client is counted; None: one that has no address ("unix", "unknown").

        IPv6 clients are counted by /64, which is what one of them is given.
        """
        group = _group(name)
        if group is None:
            return None
        digest = hashlib.blake2b(group, digest_size=4, key=self._key).digest()
        return int.from_bytes(digest[:2], "big"), int.from_bytes(digest[2:], "big")

    def count(self, place: Place) -> int:
        """Connections of who is counted here, over all workers."""
        one, other = place
        return min(sum(row[one] for row in self._rows), sum(row[other] for row in self._rows))

    def enter(self, place: Place) -> None:
        """One more."""
        for at in set(place):
            self._own[at] += 1

    def leave(self, place: Place) -> None:
        """One less."""
        for at in set(place):
            self._own[at] -= 1

    def clear(self) -> None:
        """Nobody lives here now."""
        self._own[:] = memoryview(bytes(_COUNTS * _WORD)).cast("i")


class AddressTable:
    """The rows of ``workers`` processes. Made before they are forked."""

    def __init__(self, workers: int) -> None:
        memory = memoryview(mmap.mmap(-1, workers * _COUNTS * _WORD)).cast("i")
        self._rows = [memory[at : at + _COUNTS] for at in range(0, workers * _COUNTS, _COUNTS)]
        self._key = secrets.token_bytes(16)

    def row(self, index: int) -> AddressRow:
        """What the worker of this index counts in."""
        return AddressRow(self._rows, index, self._key)


def shown(name: str) -> str:
    """The address, or the network, that is counted as one client, for people."""
    group = _group(name)
    if group is None or len(group) == 4:
        return name
    return f"{socket.inet_ntop(socket.AF_INET6, group + bytes(8))}/64"


def _group(name: str) -> bytes | None:
    try:
        if ":" not in name:
            return socket.inet_pton(socket.AF_INET, name)
        address = socket.inet_pton(socket.AF_INET6, name.partition("%")[0])
    except OSError:
        return None
    if address.startswith(bytes(10) + b"\xff\xff"):  # an IPv4 address on a listener of [::]
        return address[12:]
    return address[:8]
