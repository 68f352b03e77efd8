"""``etc/streamcache.toml`` tells the truth about every option."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from streamcache import reference
from streamcache.config import SECTIONS, TABLE, Config
from streamcache.settings import load, variable

FILE = Path(__file__).parent.parent / "etc" / "streamcache.toml"


def test_the_file_is_what_the_table_says() -> None:
    assert FILE.read_text() == reference.toml(), (
        "after a change of the table: python -m streamcache.reference > etc/streamcache.toml"
    )


def test_as_it_is_the_file_changes_nothing() -> None:
    settings = load(file=str(FILE), environ={})
    assert settings.config == Config()
    assert set(settings.origins.values()) == {"default"}


def test_with_every_option_uncommented_the_file_still_changes_nothing(tmp_path: Path) -> None:
    text = re.sub(r"^#(?=\w+ = )", "", FILE.read_text(), flags=re.MULTILINE)
    document = tomllib.loads(text)
    assert {name: list(body) for name, body in document.items()} == {
        name: list(options) for name, options in TABLE.items()
    }
    copy = tmp_path / "all.toml"
    copy.write_text(text)
    settings = load(file=str(copy), environ={})
    assert settings.config == Config()
    assert "default" not in settings.origins.values()


def test_every_option_is_told_with_reason_unit_variable_and_flag() -> None:
    paragraphs = FILE.read_text().split("\n\n")
    for section in SECTIONS:
        for key, option in TABLE[section].items():
            name = variable(section, key)
            (entry,) = [part for part in paragraphs if re.search(rf"\b{name}\b(?!_)", part)
                        and f"\n#{key} = " in part]  # fmt: skip
            flat = " ".join(line.removeprefix("# ") for line in entry.splitlines())
            assert option.why[1:] in flat
            assert (", ".join(option.choices) if option.choices else option.unit) in flat
            assert option.flag in flat
