"""``bin/streamcache`` from a fresh clone: makes its own environment once, whatever goes on beside.

Packages come from a directory with stubs of gevent and greenlet in version 99, which the clone's
setup.cfg asks for, so that pip needs no network and no time; one test does it with the real ones.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import streamcache
from tests.requirements import missing, program

REPOSITORY = Path(__file__).resolve().parents[1]
VERSION = f"streamcache {streamcache.__version__}\n"
PATIENCE = 300.0  # s, for pip with a slow network
# The interpreter behind that of the tests, without its site-packages: it has nothing but itself.
BARE = (getattr(sys, "_base_executable", sys.executable), "-S")


@dataclass(frozen=True)
class Clone:
    """A copy of what a clone has, and where its pip finds packages."""

    path: Path
    wheels: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def venv(self) -> Path:
        return self.path / ".venv"

    @property
    def launcher(self) -> str:
        return os.fspath(self.path / "bin" / "streamcache")

    def start(self, *arguments: str, python: tuple[str, ...] = BARE) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*python, self.launcher, *arguments],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, python: tuple[str, ...] = BARE) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        process = self.start(*(arguments or ("--version",)), python=python)
        out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out, err

    def run_changed(self, change: str, **environment: str) -> tuple[int, str, str]:
        """Run it in an interpreter that was changed by some code first."""
        code = (
            f"import sys, runpy\n{change}\nsys.argv = [{self.launcher!r}, '--version']\n"
            f"runpy.run_path({self.launcher!r}, run_name='__main__')"
        )
        done = subprocess.run(
            [*BARE, "-c", code],
            env=self._environment() | environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        return done.returncode, done.stdout, done.stderr

    def require(self, version: str) -> None:
        """Have setup.cfg ask for another gevent."""
        path = self.path / "setup.cfg"
        text = re.sub(r"gevent >= \S+", f"gevent >= {version}", path.read_text())
        path.write_text(re.sub(r"greenlet >= \S+", "greenlet >= 99", text))

    def _environment(self) -> dict[str, str]:
        found = {name: text for name, text in os.environ.items() if not name.startswith("PIP_")}
        found |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1"}
        found["PIP_FIND_LINKS"] = os.fspath(self.wheels)
        return found | self.environment


def stub_wheel(directory: Path, name: str, version: str) -> None:
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(directory / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", f"__version__ = {version!r}\n")
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any"
        )
        wheel.writestr(f"{info}/RECORD", "")


def fresh(directory: Path, wheels: Path) -> Clone:
    """A copy of what a clone has, without what git ignores."""
    for name in ("bin", "streamcache", "etc"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, directory / name, ignore=ignore)
    for name in ("setup.cfg", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, directory)
    return Clone(directory, wheels)


def fresh_with_stubs(directory: Path, wheels: Path) -> Clone:
    """The same, but it asks for the stubs, and the program only tells its version."""
    clone = fresh(directory, wheels)
    clone.require("99")
    shutil.rmtree(directory / "streamcache")
    (directory / "streamcache").mkdir()
    (directory / "streamcache" / "__init__.py").touch()
    (directory / "streamcache" / "cli.py").write_text(
        f"import gevent, greenlet\ndef main():\n    print({VERSION.strip()!r})\n"
    )
    return clone


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheels")
    stub_wheel(directory, "gevent", "99.1")
    stub_wheel(directory, "gevent", "100.0")
    stub_wheel(directory, "greenlet", "99.0")
    return directory


@pytest.fixture
def clone(tmp_path: Path, wheels: Path) -> Clone:
    """A fresh clone."""
    directory = tmp_path / "a clone"
    directory.mkdir()
    return fresh_with_stubs(directory, wheels)


@pytest.fixture(scope="module")
def first_use(
    tmp_path_factory: pytest.TempPathFactory, wheels: Path
) -> tuple[Clone, list[tuple[int, str, str]]]:
    """A clone that two processes used first, at once, and what they said."""
    clone = fresh_with_stubs(tmp_path_factory.mktemp("first"), wheels)
    both = [clone.start("--version") for _ in range(2)]
    said = [process.communicate(timeout=PATIENCE) for process in both]
    codes = [process.returncode for process in both]
    return clone, [(code, out, err) for code, (out, err) in zip(codes, said, strict=True)]


@pytest.fixture
def used(first_use: tuple[Clone, object], tmp_path: Path, wheels: Path) -> Clone:
    """A clone that has its environment."""
    shutil.copytree(first_use[0].path, tmp_path / "used", symlinks=True)
    return Clone(tmp_path / "used", wheels)


def test_two_first_uses_at_once_make_one_environment(
    first_use: tuple[Clone, list[tuple[int, str, str]]],
) -> None:
    clone, said = first_use
    assert [(code, out) for code, out, _ in said] == [(0, VERSION)] * 2
    lines = "".join(err for _, _, err in said).splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"streamcache: first use: making {clone.venv} with gevent, greenlet")


def test_the_second_use_says_and_installs_nothing(used: Clone) -> None:
    stamp = (used.venv / "streamcache.ready").stat()
    assert used.run() == (0, VERSION, "")
    again = (used.venv / "streamcache.ready").stat()
    assert (again.st_ino, again.st_mtime_ns) == (stamp.st_ino, stamp.st_mtime_ns)


def test_it_works_through_a_link_and_from_any_directory(
    used: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "streamcache").mkdir(parents=True)  # must not be taken for the package
    (elsewhere / "streamcache" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    (elsewhere / "link").symlink_to(used.launcher)
    monkeypatch.chdir(elsewhere)
    done = subprocess.run(
        [*BARE, "./link", "--version"], capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, VERSION, "")


def test_requirements_that_changed_are_installed(used: Clone) -> None:
    used.require("100")
    code, out, err = used.run()
    assert (code, out) == (0, VERSION)
    assert err == f"streamcache: bringing {used.venv} up to date\n"
    assert used.run() == (0, VERSION, "")
    assert "gevent >= 100" in (used.venv / "streamcache.ready").read_text().splitlines()


def test_what_cannot_be_installed_is_one_line_and_is_tried_again(used: Clone) -> None:
    used.require("101")
    for _ in range(2):
        code, out, err = used.run()
        assert (code, out) == (1, "")
        (error,) = [line for line in err.splitlines() if "error" in line]
        assert error.startswith(
            "streamcache: error: pip could not install gevent, greenlet; is the"
        )
        assert "ERROR: Could not find a version that satisfies" in error
    used.require("99")
    assert used.run()[:2] == (0, VERSION)


def test_an_environment_that_lost_its_packages_is_mended(used: Clone) -> None:
    (package,) = used.venv.glob("lib/python*/site-packages/gevent-*.dist-info")
    shutil.rmtree(package)
    code, out, err = used.run()
    assert (code, out) == (0, VERSION)
    assert "up to date" in err
    assert used.run() == (0, VERSION, "")


def test_a_half_made_environment_is_made_anew(clone: Clone) -> None:
    (clone.venv / "bin").mkdir(parents=True)
    (clone.venv / "bin" / "python").symlink_to(BARE[0])
    (clone.venv / "streamcache.begun").touch()
    (clone.venv / "rest").touch()
    code, out, err = clone.run()
    assert (code, out) == (0, VERSION)
    assert "first use: making" in err
    assert not (clone.venv / "rest").exists()
    assert not (clone.venv / "streamcache.begun").exists()


def test_an_environment_made_by_hand_is_completed_and_kept(used: Clone) -> None:
    (used.venv / "streamcache.ready").unlink()
    (used.venv / "mine").touch()
    code, out, err = used.run()
    assert (code, out) == (0, VERSION)
    assert "up to date" in err
    assert (used.venv / "mine").exists()


def test_a_broken_environment_made_by_hand_is_not_thrown_away(clone: Clone) -> None:
    (clone.venv / "bin").mkdir(parents=True)
    (clone.venv / "bin" / "python").symlink_to("/no/such/python")
    code, _, err = clone.run()
    assert code == 1
    assert err.startswith(f"streamcache: error: {clone.venv} is no environment with pip and Python")
    assert (clone.venv / "bin" / "python").is_symlink()


def test_a_clone_that_cannot_be_written_uses_the_cache_home(clone: Clone, tmp_path: Path) -> None:
    clone.environment["XDG_CACHE_HOME"] = os.fspath(tmp_path / "home")
    # Root may write everywhere, unless it gives that up.
    drop = ("--inh-caps=-dac_override", "--bounding-set=-dac_override")
    mortal = (program("setpriv"), *drop) if os.geteuid() == 0 else ()
    clone.path.chmod(0o555)
    try:
        code, out, err = clone.run(python=(*mortal, *BARE))
        assert (code, out) == (0, VERSION), err
        assert f"making {tmp_path / 'home' / 'streamcache-venv'}" in err
        assert clone.run(python=(*mortal, *BARE)) == (0, VERSION, "")
    finally:
        clone.path.chmod(0o755)
    assert not clone.venv.exists()


def test_nothing_is_made_where_everything_is_installed(clone: Clone) -> None:
    shutil.copy(REPOSITORY / "setup.cfg", clone.path)
    assert clone.run(python=(sys.executable,)) == (0, VERSION, "")
    assert not clone.venv.exists()


def test_a_missing_ensurepip_names_the_package_to_install(clone: Clone) -> None:
    code, out, err = clone.run_changed("sys.modules['ensurepip'] = None")
    assert (code, out, err.count("\n")) == (1, "", 1)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert f"apt-get install python{version}-venv (or python3-venv)" in err
    assert not (clone.venv / "bin").exists()


def test_a_python_that_is_too_old_is_told_in_one_line(clone: Clone, tmp_path: Path) -> None:
    old = "sys.version_info = (3, 9, 2, 'final', 0)"
    code, out, err = clone.run_changed(old, PATH=os.fspath(tmp_path))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "streamcache: error: needs Python 3.11 or newer, and " in err
    assert err.endswith(" is 3.9.2\n")


def test_a_newer_python_on_the_path_takes_over_from_an_old_one(
    clone: Clone, tmp_path: Path
) -> None:
    newer = tmp_path / "python3.12"
    newer.write_text('#!/bin/sh\necho "taken over: $*"\n')
    newer.chmod(0o755)
    old = "sys.version_info = (3, 9, 2, 'final', 0)"
    code, out, _ = clone.run_changed(old, PATH=os.fspath(tmp_path))
    assert (code, out) == (0, f"taken over: {clone.launcher} --version\n")


def test_a_fresh_clone_serves_with_the_real_packages_and_gets_its_signals(
    tmp_path: Path, wheels: Path
) -> None:
    (tmp_path / "clone").mkdir()
    (tmp_path / "films").mkdir()
    clone = fresh(tmp_path / "clone", wheels)
    arguments = ["serve", "films", "--listen", "127.0.0.1:0", "--cache-size", "1GB"]
    process = subprocess.Popen(
        [*BARE, clone.launcher, *arguments, "--cache-dir", "cache"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        if line:
            process.send_signal(signal.SIGTERM)
        log = process.stderr.read()
    if "is there a network?" in log:
        missing(f"pip cannot install the real packages: {log}")
    assert line.startswith("streamcache ready on http://127.0.0.1:"), log
    assert f"source={tmp_path / 'films'} cache={tmp_path / 'cache'} size=1000000000" in line
    assert process.returncode == 0, log
