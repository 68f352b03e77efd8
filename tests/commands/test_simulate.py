"""``streamcache simulate``, from a log to a table and a picture."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest

from tests.commands.running import Ended, call, run

LINE = '10.0.0.{n} - - [28/Nov/2026:08:{n:02}:00 +0000] "GET /{path} HTTP/1.1" 200 {size} "-" "x"\n'


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "access.log"
    uses = [(1, "a", 1000), (2, "b", 3000), (3, "a", 1000), (4, "c", 4000), (5, "b", 3000)]
    path.write_text("".join(LINE.format(n=n, path=name, size=size) for n, name, size in uses))
    return path


def outcomes(done: Ended) -> dict[tuple[str, int], tuple[int, int]]:
    assert done.code == 0, done.err
    told = json.loads(done.out)
    return {
        (one["policy"], one["size"]): (one["hits"], one["bytes_hit"]) for one in told["outcomes"]
    }


def test_the_ratios_of_each_policy_and_size(log: Path) -> None:
    done = call("simulate", str(log), "--size", "4kB,8kB", "--policy", "lru,sieve", "--json")
    assert outcomes(done) == {
        ("lru", 4000): (1, 1000),
        ("sieve", 4000): (1, 1000),
        ("lru", 8000): (2, 4000),
        ("sieve", 8000): (2, 4000),
    }
    told = json.loads(done.out)
    assert (told["requests"], told["files"], told["footprint"]) == (5, 3, 8000)
    assert told["outcomes"][2]["byte_hit_ratio"] == 4000 / 12000


def test_the_table_for_people(log: Path) -> None:
    done = call("simulate", str(log), "--size", "8kB", "--policy", "s3fifo")
    lines = done.out.splitlines()
    assert lines[0] == "5 requests in 4 min 00 s: 5 uses of 3 files, 8.00 kB together"
    assert lines[2].split() == [
        *("SIZE", "OF", "ALL", "POLICY", "BYTE", "HITS", "OBJECT", "HITS", "FROM", "SOURCE"),
        "EVICTED",
    ]
    cells = ("8.00 kB", "100.0 %", "s3fifo", "33.3 %", "40.0 %", "8.00 kB", "0")
    assert re.split(r"  +", lines[3].strip()) == list(cells)
    assert (done.code, done.err) == (0, "")


def test_without_sizes_it_goes_up_to_all_files(log: Path) -> None:
    found = outcomes(call("simulate", str(log), "--json", "--policy", "lru"))
    assert max(size for _, size in found) == 8000
    assert len(found) == 8
    assert found["lru", 8000] == (2, 4000)


def test_compressed_logs_standard_input_and_foreign_lines(log: Path, tmp_path: Path) -> None:
    older = tmp_path / "access.log.1.gz"
    older.write_bytes(gzip.compress(log.read_bytes()))
    log.write_text("nonsense\n" + LINE.format(n=20, path="a", size=1000))
    for given in (older, log), (log, older):  # they are put in order
        flags = ("--size", "8kB", "--policy", "lru", "--json")
        done = call("simulate", *map(str, given), *flags)
        assert outcomes(done) == {("lru", 8000): (3, 5000)}
        assert json.loads(done.out)["first"] < json.loads(done.out)["last"]
    assert json.loads(done.out)["unread"] == 1
    done = call("simulate", "-", "--size", "8kB", "--policy", "lru", stdin=log.read_text())
    assert done.code == 0 and "1 line passed over: not of an access log" in done.err


def test_the_sizes_of_the_files_themselves(log: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_bytes(b"x" * 5000)
    done = call("simulate", str(log), "--source", str(source), "--json", "--policy", "lru")
    told = json.loads(done.out)
    assert (told["footprint"], told["guessed"]) == (12000, 2)


def test_a_picture(log: Path, tmp_path: Path) -> None:
    picture = tmp_path / "hits.png"
    done = run("simulate", str(log), "--plot", str(picture))
    assert done.code == 0 and f"{picture} written" in done.err
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG") and int.from_bytes(data[16:20]) >= 1000  # pixels wide


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none.log"], "'none.log': No such file or directory"),
        (["/dev/null"], "/dev/null: 0 lines, and no answer with bytes"),
        (["LOG", "--policy", "lru,fifo"], "--policy: 'fifo' is not known; allowed: lru, s3fifo"),
        (["LOG", "--size", "5X"], "--size: '5X' is no size; allowed: "),
        (["LOG", "--size", "0"], "--size: 0 is no size of a cache"),
        (["LOG", "--source", "/none"], "--source: '/none': a directory is needed"),
        (["LOG", "--plot", "/none/p.png"], "--plot: '/none/p.png': there is no directory '/none'"),
        (["LOG", "--plot", "/"], "--plot: '/' is a directory"),
        (["CUT"], "Compressed file ended before"),
    ],
)
def test_what_is_wrong_is_said(arguments: list[str], says: str, log: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gz"
    cut.write_bytes(gzip.compress(log.read_bytes() * 50)[:60])
    places = {"LOG": str(log), "CUT": str(cut)}
    done = call("simulate", *(places.get(each, each) for each in arguments))
    assert done.code == 2
    assert says in done.err and len(done.err.splitlines()) == 1
    assert done.out == ""  # not after all the work


def test_the_cache_itself_has_no_sieve(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('[cache]\npolicy = "sieve"\n')
    done = call("config", "--config", str(config))
    assert done.code == 2 and "sieve" in done.err
