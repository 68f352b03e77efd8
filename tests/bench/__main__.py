"""``bin/bench``: streamcache and its peers in turn, on the same files, as a table of ratios.

Read the ratios: seconds belong to this machine. Run it on an idle one; every answer is verified.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shlex
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.bench import (
    beside,
    cold,
    cold_peers,
    copying,
    crowds,
    hot,
    machine,
    million,
    processes,
    programs,
)
from tests.bench.report import Row, as_json, markdown, write_block
from tests.bench.scenario import SCENARIOS, Bench

# Who has scenarios, in the order of the table; importing a module registers its own.
MODULES = (hot, beside, crowds, cold, cold_peers, copying, million)

DOCUMENT = machine.REPOSITORY / "docs" / "performance.md"
DESCRIPTORS = 65_536
PATIENCE = 1800  # s for one scenario


def main() -> int:
    """Run the scenarios that were chosen; 1 if one of them failed (a missed aim is no failure)."""
    args = _arguments()
    rank = {module.__name__: at for at, module in enumerate(MODULES)}
    names = sorted(SCENARIOS, key=lambda name: rank.get(SCENARIOS[name].__module__, len(rank)))
    chosen = [name for name in names if re.search(args.only, name)]
    if args.list:
        for name in chosen:
            print(f"{name:24} {(SCENARIOS[name].__doc__ or '').splitlines()[0]}")
        return 0
    for program, package in programs.missing().items():
        print(f"bench: no {program} (apt package {package}): not run", file=sys.stderr)
    facts = machine.facts(shlex.join(["bin/bench", *sys.argv[1:]]))
    others = machine.Others()
    rows: list[Row] = []
    failed: list[str] = []
    with tempfile.TemporaryDirectory(
        prefix="bench-", dir=args.dir, ignore_cleanup_errors=True
    ) as directory:
        bench = Bench(Path(directory), quick=args.quick, rounds=args.rounds)
        for name in chosen:
            print(f"{name} ...", file=sys.stderr, flush=True)
            began = time.monotonic()
            signal.alarm(PATIENCE)
            try:
                # What checks answers is load, too. Cold servers have all cores.
                cores = bench.cores.load if name.startswith("hot.") else bench.cores.all
                with processes.on_cores(cores):
                    rows += SCENARIOS[name](bench)
            except Exception as error:  # one scenario must not hide the figures of the others
                failed.append(name)
                print(f"{name} FAILED: {error!r}", file=sys.stderr)
                rows.append(Row(name, math.nan, note=f"failed: {error}"))
            finally:
                signal.alarm(0)
            print(f"{name} took {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    facts["meanwhile other processes had"] = f"{others.share():.0%} of the machine"
    text = f"{machine.markdown(facts)}\n\n{markdown(rows)}"
    print(text)
    if args.json:
        figures = as_json(rows, machine=facts, quick=args.quick, failed=failed)
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    if args.markdown:
        write_block(args.markdown, text)
    return 1 if failed else 0


def _hangs(_number: int, _frame: object) -> None:
    raise TimeoutError(f"not done after {PATIENCE} s")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bin/bench", description=__doc__)
    parser.add_argument("--only", metavar="REGEX", default="", help="scenarios; see --list")
    parser.add_argument("--quick", action="store_true", help="short rounds, small files: a try-out")
    parser.add_argument("--rounds", metavar="N", type=int, help="of the servers in turn; 5")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures there")
    parser.add_argument("--list", action="store_true", help="name the scenarios and end")
    parser.add_argument(
        "--markdown",
        metavar="FILE",
        type=Path,
        nargs="?",
        const=DOCUMENT,
        help=f"also write the table into FILE; {DOCUMENT.relative_to(machine.REPOSITORY)}",
    )
    parser.add_argument("--dir", default="/var/tmp", help="on the disk that caches; %(default)s")
    return parser.parse_args()


if __name__ == "__main__":
    processes.raise_descriptors(DESCRIPTORS)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends servers and mounts, too
    signal.signal(signal.SIGALRM, _hangs)
    sys.exit(main())
