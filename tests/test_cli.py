"""The command line: help that explains, errors of one line, exit codes, --check."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import IO

import pytest

import streamcache
from streamcache.cli import main
from tests.commands.running import run

REPOSITORY = Path(__file__).resolve().parents[1]
ANY_PORT = ("--listen", "127.0.0.1:0")  # of what binds before it looks at the rest

pytestmark = pytest.mark.usefixtures("no_settings")


@pytest.fixture
def source(tmp_path: Path) -> str:
    (tmp_path / "films").mkdir()
    return os.fspath(tmp_path / "films")


def exits(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    try:
        code = main(arguments)
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else -1
    out, err = capsys.readouterr()
    return code, out, err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert exits(["--version"], capsys) == (0, f"streamcache {streamcache.__version__}\n", "")


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["--version"]])
def test_help_that_nobody_reads_or_that_cannot_be_written_is_no_traceback(
    arguments: list[str],
) -> None:
    command = [sys.executable, "-m", "streamcache", *arguments]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}

    def to(file: IO[bytes]) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            command, stdout=file, stderr=subprocess.PIPE, env=buffered, cwd=REPOSITORY, check=False
        )

    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as unread:
        done = to(unread)
    assert (done.returncode, done.stderr) == (141, b"")
    with open("/dev/full", "wb") as full:
        done = to(full)
    assert done.returncode == 1
    assert done.stderr == b"streamcache: error: [Errno 28] No space left on device\n"


def test_ctrl_c_while_the_program_is_still_imported_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'streamcache.commands.warm': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "streamcache", "serve", "/"],
        env={**os.environ, "PYTHONPATH": os.fspath(tmp_path)},
        cwd=REPOSITORY,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, b"")


def test_help_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = exits(["--help"], capsys)
    assert code == 0
    assert "puts a fast local disk in front of slow files" in out
    assert "serve" in out
    code, out, _ = exits(["serve", "--help"], capsys)
    assert code == 0
    flags = set(re.findall(r"--[a-z-]+", out))
    assert flags >= {
        *("--listen", "--cache-dir", "--cache-size", "--workers", "--revalidate"),
        *("--config", "--log-level", "--check"),
    }
    for told in ("127.0.0.1:8080", "default: 2s", "500MB", "250ms", "STREAMCACHE_CACHE_SIZE"):
        assert told in out
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "arguments are required: COMMAND (see streamcache --help)"),
        (["server"], "invalid choice: 'server'"),
        (["serve", *ANY_PORT], "no SOURCE given; allowed: a directory"),
        (["serve", "/no/such/place", *ANY_PORT], "SOURCE: source.path: /no/such/place does not"),
        (["serve", "/", "--cache-sise", "1GB"], "unrecognized arguments: --cache-sise 1GB"),
        (["serve", "/", "--cache", "/tmp"], "unrecognized arguments: --cache /tmp"),
        (["serve", "/", "--cache-size", "1X"], "--cache-size: cache.size: '1X' is no size; al"),
        (["serve", "/", "--cache-size"], "--cache-size: expected one argument"),
        (["serve", "/", "--workers", "two"], "--workers: server.workers: 'two' is not allowed; al"),
        (["serve", "/", "--workers", "-1"], "--workers: server.workers: '-1' is not allowed"),
        (["serve", "/", "--workers", "1025"], '1025 is not allowed; allowed: "cores" (one for'),
        (["serve", "/", "--workers", "0"], "--workers: server.workers: 0 is not allowed; allowed"),
        (["serve", "/", "--revalidate", "soon"], "source.revalidate: 'soon' is no duration"),
        (["serve", "/", "--log-level", "loud"], "allowed: debug, info, warning, error"),
        (["serve", "/", "--config", "/no/file"], "/no/file: cannot be read: No such file"),
        (["serve", "/", "--cache-dir", "/x", *ANY_PORT], "cache.dir: /x is inside the source /"),
        (["serve", "/proc", "--listen", "nowhere"], "server.listen: 'nowhere': "),
    ],
)
@pytest.mark.parametrize("check", [False, True])
def test_what_cannot_run_is_one_line_on_stderr_and_2(
    arguments: list[str], message: str, check: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    if arguments[:1] == ["serve"] and not check:
        # Who serves has a log and a process name of its own: not in this process.
        done = run(*arguments)
        code, out, err = done.code, done.out, done.err
    else:
        if check and arguments[:1] == ["serve"]:
            arguments = ["serve", "--check", *arguments[1:]]
        code, out, err = exits(arguments, capsys)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("streamcache: error: ")
    assert message in err


def test_each_mistake_has_a_line_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "its.toml"
    file.write_text("[server]\nlisten = 8080\n[cache]\nhigh_watermark = 95\n")
    code, out, err = exits(["check", "--config", os.fspath(file)], capsys)
    first, second = err.splitlines()
    assert (code, out) == (2, "")
    assert first.startswith(f"streamcache: error: {file}: server.listen: 8080 is not allowed; ")
    assert second.startswith(f"streamcache: error: {file}: cache.high_watermark: 95 is not")


@pytest.mark.parametrize("command", ["serve", "check", "verify"])
@pytest.mark.parametrize("names", [["letter.txt", "docs/"], ["objects/", "objects/ab/"], ["lock/"]])
def test_a_mistyped_cache_directory_stays_as_it_is(
    source: str, tmp_path: Path, command: str, names: list[str]
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for name in names:
        (home / name).mkdir() if name.endswith("/") else (home / name).touch()
    home.chmod(0o755)
    before = home.stat()
    arguments = ["verify"] if command == "verify" else [command, source, *ANY_PORT]
    done = run(*arguments, "--cache-dir", os.fspath(home))
    (line,) = done.err.splitlines()
    assert (done.code, done.out) == (2, "")
    assert str(home) in line
    assert ("is no cache" if command == "verify" else "is not empty and not a cache") in line
    assert {f"{path.relative_to(home)}/".strip("/") for path in home.rglob("*")} == {
        name.strip("/") for name in names
    }
    after = home.stat()
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)


def test_check_prints_what_would_run_and_makes_nothing(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "its.toml"
    file.write_text(f'[source]\npath = "{source}"\nrevalidate = "1m"\n')
    arguments = ["serve", "--check", "--config", os.fspath(file), "--listen", "127.0.0.1:0"]
    code, out, err = exits([*arguments, "--cache-dir", os.fspath(tmp_path / "cache")], capsys)
    assert (code, err) == (0, "")
    document = tomllib.loads(out)
    assert document["source"] | {"path": source, "revalidate": "1m"} == document["source"]
    assert document["cache"]["dir"] == os.fspath(tmp_path / "cache")
    assert f"# {file}" in out
    assert "# --listen" in out
    assert not (tmp_path / "cache").exists()


def test_a_source_given_as_argument_wins_over_the_file(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "its.toml"
    file.write_text('[source]\npath = "/no/such/place"\n')
    arguments = ["serve", source, "--check", "--config", os.fspath(file)]
    arguments += ["--listen", "127.0.0.1:0", "--cache-dir", os.fspath(tmp_path / "cache")]
    code, out, _ = exits(arguments, capsys)
    assert code == 0
    assert tomllib.loads(out)["source"]["path"] == source


def test_it_runs_as_a_module_from_any_directory(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "streamcache", "--version"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.fspath(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout == f"streamcache {streamcache.__version__}\n"
