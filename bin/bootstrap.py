"""The virtual environment that a clone runs in: made on first use, kept up to date with setup.cfg.

Standard library only, as nothing else is there yet. Used by ``bin/streamcache`` and ``bin/test``.
It is ``.venv`` in the clone; a clone that cannot be written to has it in the cache home. Two files
in it are ours: a lock, so that two first uses at once do not collide, and a stamp with what was
installed, written last: without it the environment is not used.
"""

from __future__ import annotations

import configparser
import contextlib
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence

PYTHON = (3, 11)
_LOCK = "streamcache.lock"
_STAMP = "streamcache.ready"
_BEGUN = "streamcache.begun"  # there as long as we are making a new environment
_AT_LEAST = re.compile(r"([A-Za-z0-9._-]+)\s*(?:>=\s*([0-9.]+))?")


class BootstrapError(Exception):
    """One line for the user: what is missing, and what to do."""


def requirements(clone: str, extras: Sequence[str] = ()) -> list[str]:
    """What setup.cfg asks for: the run-time packages, and those of ``extras``."""
    config = configparser.ConfigParser()
    with open(os.path.join(clone, "setup.cfg"), encoding="utf-8") as file:
        config.read_file(file)
    texts = [config["options"]["install_requires"]]
    texts += [config["options.extras_require"][name] for name in extras]
    return [line.strip() for text in texts for line in text.splitlines() if line.strip()]


def is_satisfied(wanted: Sequence[str]) -> bool:
    """Whether the interpreter that runs this has all of ``wanted`` already."""
    for text in wanted:
        match = _AT_LEAST.fullmatch(text)
        if match is None:
            return False  # a form that only pip understands
        try:
            version = importlib.metadata.version(match[1])
        except importlib.metadata.PackageNotFoundError:
            return False
        if match[2] is not None and _numbers(version) < _numbers(match[2]):
            return False
    return True


def ensure(clone: str, extras: Sequence[str] = (), *, again: bool = False, kind: str = "") -> str:
    """The interpreter of an environment that has what ``extras`` need; made when it is missing.

    ``again`` looks after an environment that says it is ready and is not. ``kind`` ("-fuzz") is
    for packages that the usual environment shall not have. BootstrapError.
    """
    wanted = requirements(clone, extras)
    for venv in (os.path.join(clone, ".venv" + kind), _home(clone) + kind):
        python = os.path.join(venv, "bin", "python")
        if not again and _is_ready(venv, wanted):
            return python
        try:
            os.makedirs(venv, exist_ok=True)
            lock = _locked(venv)
        except OSError:
            continue
        with lock:
            if again or not _is_ready(venv, wanted):  # unless another process just did it
                _make(venv, wanted, requirements(clone, _all_extras(clone)))
        return python
    raise BootstrapError(
        f"neither {clone} nor {os.path.dirname(_home(clone))} can be written to;"
        " set XDG_CACHE_HOME to a directory that can"
    )


def owns(clone: str, prefix: str) -> bool:
    """Whether ``prefix`` (a ``sys.prefix``) is an environment made for this clone."""
    places = (os.path.join(clone, ".venv"), _home(clone))
    return os.path.realpath(prefix) in map(os.path.realpath, places)


def _make(venv: str, wanted: Sequence[str], all_: Sequence[str]) -> None:
    python = os.path.join(venv, "bin", "python")
    begun, stamp = os.path.join(venv, _BEGUN), os.path.join(venv, _STAMP)
    stamped = _read_stamp(venv)
    ours_is_broken = os.path.exists(begun) or (stamped is not None and not _works(python))
    if ours_is_broken or not os.path.lexists(python):
        _require_ensurepip()
        _say(f"first use: making {venv} with {', '.join(map(_name, wanted))} (once)")
        if ours_is_broken:
            _clear(venv)
        with open(begun, "w"):
            pass
        _run([sys.executable, "-m", "venv", venv], f"{venv} could not be made")
    elif not _works(python):
        # Somebody else's: not ours to throw away.
        raise BootstrapError(
            f"{venv} is no environment with pip and Python {_dotted(PYTHON)} or newer; remove it"
        )
    else:
        _say(f"bringing {venv} up to date")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(stamp)
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet"]
    names = ", ".join(map(_name, wanted))
    _run([*pip, *wanted], f"pip could not install {names}; is there a network?")
    kept = stamped[1:] if stamped is not None and not ours_is_broken else []
    lines = [os.path.realpath(python), *wanted]
    lines += [text for text in kept if text in all_ and text not in wanted]
    with open(stamp + ".new", "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    os.rename(stamp + ".new", stamp)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(begun)


def _is_ready(venv: str, wanted: Sequence[str]) -> bool:
    stamped = _read_stamp(venv)
    if stamped is None:
        return False
    python = os.path.realpath(os.path.join(venv, "bin", "python"))
    # The same interpreter as then: /usr/bin/python3 may be a newer one by now, which does not
    # find what was installed for the old one.
    return os.path.exists(python) and python == stamped[0] and set(wanted) <= set(stamped[1:])


def _read_stamp(venv: str) -> list[str] | None:
    try:
        with open(os.path.join(venv, _STAMP), encoding="utf-8") as file:
            return file.read().splitlines() or None
    except OSError:
        return None


@contextlib.contextmanager
def _unlocking(fd: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(fd)


def _locked(venv: str) -> contextlib.AbstractContextManager[None]:
    fd = os.open(os.path.join(venv, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    except BaseException:
        os.close(fd)
        raise
    return _unlocking(fd)


def _clear(venv: str) -> None:
    for entry in os.scandir(venv):
        if entry.name == _LOCK:
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


def _works(python: str) -> bool:
    code = f"import sys, pip; sys.exit(sys.version_info < {PYTHON!r})"
    try:
        return subprocess.run([python, "-c", code], capture_output=True).returncode == 0
    except OSError:
        return False


def _require_ensurepip() -> None:
    if importlib.util.find_spec("ensurepip") and importlib.util.find_spec("venv"):
        return
    package = f"python{_dotted(sys.version_info[:2])}-venv"
    raise BootstrapError(
        f"this Python ({sys.executable}) has no ensurepip, so it can make no virtual environment;"
        f" on Debian or Ubuntu: apt-get install {package} (or python3-venv)"
    )


def _run(command: Sequence[str], problem: str) -> None:
    # stdout is not ours: other programs wait for the ready line there.
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        lines = done.stdout.decode(errors="replace").strip().splitlines()
        errors = [line for line in lines if line.startswith("ERROR:")] or lines[-1:]
        raise BootstrapError(f"{problem} ({' '.join(errors[:1]) or f'exit {done.returncode}'})")


def _home(clone: str) -> str:
    """Where the environment of a clone that cannot be written to is."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):
        cache = os.path.expanduser("~/.cache")
    name = hashlib.sha256(os.fsencode(os.path.realpath(clone))).hexdigest()[:16]
    return os.path.join(cache, "streamcache-venv", name)


def _all_extras(clone: str) -> list[str]:
    config = configparser.ConfigParser()
    config.read(os.path.join(clone, "setup.cfg"), encoding="utf-8")
    return list(config["options.extras_require"])


def _name(requirement: str) -> str:
    return re.split(r"[ <>=!~;\[]", requirement, maxsplit=1)[0]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0]))


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


def _say(text: str) -> None:
    print(f"streamcache: {text}", file=sys.stderr, flush=True)
