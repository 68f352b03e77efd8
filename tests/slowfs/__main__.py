"""``python -m tests.slowfs BACKING MOUNTPOINT``: mount a directory slowly, until Ctrl-C."""

from __future__ import annotations

import argparse
import os

from . import mounting
from .model import Speed
from .server import run


def main() -> None:
    """Parse the command line and serve."""
    default = Speed()
    parser = argparse.ArgumentParser(prog="python -m tests.slowfs", description=__doc__)
    parser.add_argument("backing", help="directory whose files are shown")
    parser.add_argument("mountpoint")
    parser.add_argument("--control", help="unix socket for commands; default MOUNTPOINT.control")
    parser.add_argument("--latency", type=float, default=default.latency, help="s per read")
    parser.add_argument(
        "--meta-latency", type=float, default=default.meta_latency, help="s per lookup, stat, open"
    )
    parser.add_argument(
        "--bandwidth", type=float, default=default.bandwidth, help="bytes/s, all readers; 0: any"
    )
    parser.add_argument("--attr-timeout", type=float, default=default.attr_timeout, help="s")
    parser.add_argument("--entry-timeout", type=float, default=default.entry_timeout, help="s")
    parser.add_argument(
        "--cold-opens",
        action="store_true",
        help="each open drops the kernel's pages, not only one of a changed file",
    )
    parser.add_argument("--writable", action="store_true", help="files can be changed")
    parser.add_argument("--read-ahead", type=int, default=mounting.MAX_READ, help="bytes")
    parser.add_argument(
        "--parent", action="store_true", help="end when standard input ends (for SlowFS)"
    )
    args = parser.parse_args()
    speed = Speed(
        latency=args.latency,
        meta_latency=args.meta_latency,
        bandwidth=args.bandwidth,
        attr_timeout=args.attr_timeout,
        entry_timeout=args.entry_timeout,
        keep_cache=not args.cold_opens,
    )
    control = args.control or f"{args.mountpoint.rstrip(os.sep)}.control"
    try:
        run(
            args.backing,
            args.mountpoint,
            control,
            speed=speed,
            read_ahead=args.read_ahead,
            parent=args.parent,
            writable=args.writable,
        )
    finally:
        if os.path.exists(control):
            os.unlink(control)


if __name__ == "__main__":
    main()
