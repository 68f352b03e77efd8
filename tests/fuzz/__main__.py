"""bin/fuzz: each target under atheris for its share of the time, in a process of its own.

New inputs that reach new code go to .fuzz/corpus/TARGET and are used again; what is worth keeping
is copied to tests/fuzz/corpus by hand. An input that fails is left in .fuzz/crashes, with the
command that runs it again. Exit codes: 0 nothing found, 1 something, 2 wrong arguments.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

WORK = Path(".fuzz")
NAMES = (
    *("head", "target", "ranges", "conditions", "proxy", "grant", "secrets", "networks"),
    *("block_map", "catalog", "map_file", "object_file"),
)
LONGEST_INPUT = 8192  # bytes; a map's header has 4096
SLOWEST = 20  # s that one input may take
MEMORY = 2048  # MiB
GRACE = 60  # s that a target may take to start and end
_DONE = re.compile(rb"(?:Done|stat::number_of_executed_units:) (\d+)")


def main() -> int:
    parser = argparse.ArgumentParser(prog="bin/fuzz", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seconds", type=int, default=60, metavar="N", help="for all targets")
    parser.add_argument("--target", choices=NAMES, action="append", help="only this one")
    parser.add_argument("--run", metavar="FILE", help="run one input of --target, without atheris")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return _fuzz(arguments.child, arguments.seconds)
    if arguments.seconds < 1:
        parser.error("--seconds: at least 1")
    names = arguments.target or list(NAMES)
    if arguments.run:
        if len(names) != 1:
            parser.error("--run needs one --target")
        targets = importlib.import_module("tests.fuzz.targets").TARGETS
        targets[names[0]](Path(arguments.run).read_bytes())
        print("nothing found")
        return 0
    found = [not _campaign(name, max(1, arguments.seconds // len(names))) for name in names]
    return int(any(found))


def _campaign(name: str, seconds: int) -> bool:
    """Run one target in a process; whether nothing was found."""
    crashes = WORK / "crashes" / name
    crashes.mkdir(parents=True, exist_ok=True)
    before = set(crashes.iterdir())
    command = [sys.executable, "-m", "tests.fuzz", "--child", name, "--seconds", str(seconds)]
    started = time.monotonic()
    output, problem = b"", ""
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=seconds + SLOWEST + GRACE, check=False
        )
    except subprocess.TimeoutExpired as error:
        problem, output = "hangs", (error.stderr or b"")
    else:
        output = done.stdout + done.stderr
        problem = f"exit code {done.returncode}" if done.returncode else ""
    new = sorted(set(crashes.iterdir()) - before)
    runs = _DONE.findall(output)
    count = int(runs[-1]) if runs else 0
    seen = len(list((WORK / "corpus" / name).glob("*")))
    state = "FOUND" if new else problem or "ok"
    took = time.monotonic() - started
    print(f"{name:12} {count:9d} runs {seen:6d} inputs {took:6.1f} s  {state}", flush=True)
    if problem or new:
        print(output[-4000:].decode(errors="replace"), file=sys.stderr)
    for path in new:
        print(f"  again: bin/fuzz --target {name} --run {path}", flush=True)
    return not problem and not new


def _fuzz(name: str, seconds: int) -> int:
    """In the child: never returns, atheris ends the process."""
    import atheris

    with atheris.instrument_imports(include=["streamcache"]):
        targets = importlib.import_module("tests.fuzz.targets").TARGETS
    from tests.fuzz import corpus

    grown = WORK / "corpus" / name
    seeds = WORK / "seeds" / name
    for folder in (grown, seeds):
        folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(corpus.real(name)):
        (seeds / f"real-{number}").write_bytes(data)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={LONGEST_INPUT if name != 'catalog' else 1 << 17}",
        f"-timeout={SLOWEST}",
        f"-rss_limit_mb={MEMORY}",
        f"-artifact_prefix={WORK / 'crashes' / name}{os.sep}",
        "-print_final_stats=1",
        "-use_value_profile=1",
    ]
    folders = [str(grown), str(seeds), str(corpus.ROOT / name)]
    atheris.Setup([sys.argv[0], *options, *folders], targets[name])
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
