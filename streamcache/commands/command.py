"""What a command is: its words on the command line, its help, and what it does."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

OK: Final = 0
FAILURE: Final = 1
CONFIGURATION: Final = 2


@dataclass(frozen=True, slots=True)
class Command:
    """One command. Its module imports what it needs to run when it runs: help comes at once."""

    name: str
    help: str  # a line in the list of commands
    about: str  # above the arguments in its own help
    more: str  # below them: examples, exit codes
    add: Callable[[argparse.ArgumentParser], None]  # its arguments
    run: Callable[
        [argparse.Namespace], int
    ]  # the exit code; ConfigError, StreamCacheError, OSError
