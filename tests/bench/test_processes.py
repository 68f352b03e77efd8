"""What the bench says of processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from tests.bench import processes
from tests.bench.machine import Others
from tests.bench.processes import Stat

BUSY = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass\n"


def test_a_line_of_proc_is_read_whatever_the_process_is_called() -> None:
    fields = ["R", "7", *["0"] * 9, "10", "20", "30", "40", *["0"] * 30]
    stat = Stat.parse(f"42 (a ) (b) {' '.join(fields)}")
    tick = os.sysconf("SC_CLK_TCK")
    assert stat == Stat(42, 7, 100 / tick)


def test_cpu_seconds_are_those_of_the_whole_tree() -> None:
    """Its own, those of a child that lives and those of a child that has ended."""
    script = (
        f"import subprocess, sys\nbusy = {BUSY!r}\nexec(busy)\n"
        "subprocess.run([sys.executable, '-c', busy])\n"
        "child = subprocess.Popen([sys.executable, '-c', busy + 'print(flush=True); input()'],"
        " stdin=subprocess.PIPE)\n"
        "sys.stdin.read()\nchild.communicate()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as root:
        assert root.stdout is not None
        assert root.stdout.readline() == b"\n"  # the last child was busy
        # The kernel counts ticks of 10 ms, and drops what is left of user and system time of each.
        assert processes.cpu_seconds(root.pid) >= 0.6 - 6 * 0.01
        assert len(processes.tree(root.pid)) == 2
        assert processes.memory(root.pid) > 2 * 1024**2
        root.communicate()
    assert processes.tree(root.pid) == []


def test_connections_are_counted_per_process() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        peers = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        accepted = [server.accept()[0] for _ in peers]
        assert processes.connections(os.getpid(), port)[os.getpid()] == 3
        for end in (*peers, *accepted):
            end.close()


def test_cores_are_inherited_and_given_back() -> None:
    before = os.sched_getaffinity(0)
    one = tuple(before)[:1]
    with processes.on_cores(one):
        code = "import os; print(sorted(os.sched_getaffinity(0)))"
        shown = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert shown.stdout.strip() == str(list(one))
    assert os.sched_getaffinity(0) == before


def test_one_core_is_shared_by_server_and_load() -> None:
    assert processes.Cores((3,)).server == processes.Cores((3,)).load == (3,)
    assert processes.Cores((2, 3, 4)).server == (2,)
    assert processes.Cores((2, 3, 4)).load == (3, 4)


def test_the_machine_took_what_a_process_took() -> None:
    before = processes.machine_seconds()
    others = Others()
    subprocess.run([sys.executable, "-c", BUSY], check=True)
    assert processes.machine_seconds() - before >= 0.18
    assert -0.1 < others.share() <= 1.1
