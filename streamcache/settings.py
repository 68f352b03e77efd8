"""Settings of one run: defaults, then a TOML file, then the environment, then flags.

The order is that of distance from the person who starts the program. Whatever is not known is an
error, as a misspelt option that is passed over in silence is found only when it hurts.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from streamcache.config import SECTIONS, TABLE, Config
from streamcache.errors import ConfigError
from streamcache.options import Value

PREFIX: Final = "STREAMCACHE_"
CONFIG_VARIABLE: Final = "STREAMCACHE_CONFIG"  # as --config

# What Kubernetes and Docker put into every container when a service is called "streamcache":
# STREAMCACHE_PORT=tcp://..., STREAMCACHE_SERVICE_HOST, STREAMCACHE_PORT_8080_TCP_ADDR ...
_INJECTED: Final = re.compile(r"(.*_)?(SERVICE_(HOST|PORT)(_.*)?|PORT(_\d+_(TCP|UDP|SCTP).*)?)")


@dataclass(frozen=True, slots=True)
class Settings:
    """A valid configuration, and where each value of it came from."""

    config: Config
    origins: Mapping[str, str]  # "cache.size" -> "default", "FILE", "$VARIABLE" or "--flag"

    def where(self, section: str, key: str) -> str:
        """The origin of a value and its name there, to begin a message with."""
        origin = self.origins[f"{section}.{key}"]
        name = f"{section}.{key}"
        return name if origin == "default" else f"{origin}: {name}"


@dataclass(frozen=True, slots=True)
class _Given:
    value: Value
    origin: str


def load(
    *,
    file: str | None = None,
    environ: Mapping[str, str] = os.environ,
    flags: Mapping[str, object] | None = None,
) -> Settings:
    """Settings from all four places; ``flags`` maps "section.key" to a value.

    Raises ConfigError that names the place, the key, the value and what is allowed, of all that is
    wrong.
    """
    given: dict[str, _Given] = {}
    problems: list[str] = []
    file = file or environ.get(CONFIG_VARIABLE) or None
    if file is not None:
        given |= _from_file(file, problems)
    given |= _from_environment(environ, problems)
    given |= _from_flags(flags or {}, problems)
    if problems:
        raise ConfigError(*problems)
    config = _build(given)
    origins = {
        f"{section}.{key}": given[f"{section}.{key}"].origin
        if f"{section}.{key}" in given
        else "default"
        for section, options in TABLE.items()
        for key in options
    }
    return Settings(config, origins)


def variable(section: str, key: str) -> str:
    """The environment variable of an option."""
    return f"{PREFIX}{section}_{key}".upper()


def _build(given: Mapping[str, _Given]) -> Config:
    sections, problems = {}, []
    for section, kind in SECTIONS.items():
        names = {key: f"{section}.{key}" for key in TABLE[section]}
        values = {key: given[name].value for key, name in names.items() if name in given}
        try:
            sections[section] = kind(**values)
        except ConfigError as error:
            # Found by a section as a whole, which cannot know whence its values came.
            name = str(error).partition(":")[0]
            origin = f"{given[name].origin}: " if name in given else ""
            problems.append(f"{origin}{error}")
    if problems:
        raise ConfigError(*problems)
    return Config(**sections)


def _from_file(path: str, problems: list[str]) -> dict[str, _Given]:
    try:
        with open(path, "rb") as stream:
            document = tomllib.load(stream)
    except OSError as error:
        problems.append(f"{path}: cannot be read: {error.strerror}")
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(f"{path}: is not TOML: {error}")
        return {}
    given: dict[str, _Given] = {}
    for section, body in document.items():
        if section not in TABLE:
            problems.append(
                f"{path}: unknown section [{section}]; {_nearest(section, TABLE, 'sections')}"
            )
            continue
        if not isinstance(body, dict):
            problems.append(
                f"{path}: {section} = {_shown(body)}: {section} is a section, written [{section}]"
            )
            continue
        for key, value in body.items():
            if key in TABLE[section]:
                given |= _read(section, key, value, path, problems)
                continue
            problems.append(
                f"{path}: unknown option {section}.{key} = {_shown(value)}; "
                + _nearest(key, TABLE[section], f"options of [{section}]")
            )
    return given


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> dict[str, _Given]:
    names = {variable(section, key): (section, key) for section in TABLE for key in TABLE[section]}
    given: dict[str, _Given] = {}
    for name, text in environ.items():
        if not name.startswith(PREFIX) or name == CONFIG_VARIABLE:
            continue
        if name in names:
            given |= _read(*names[name], text, f"${name}", problems)
        elif _INJECTED.fullmatch(name.removeprefix(PREFIX)) is None:
            problems.append(
                f"${name}: unknown option, with the value {_shown(text)}; "
                + _nearest(name, names, "variables")
            )
    return given


def _from_flags(flags: Mapping[str, object], problems: list[str]) -> dict[str, _Given]:
    given: dict[str, _Given] = {}
    for name, value in flags.items():
        section, _, key = name.partition(".")
        given |= _read(section, key, value, TABLE[section][key].flag, problems)
    return given


def _read(
    section: str, key: str, value: object, origin: str, problems: list[str]
) -> dict[str, _Given]:
    """The one value by its name; or one more of the ``problems``."""
    name = f"{section}.{key}"
    try:
        return {name: _Given(TABLE[section][key].parse(value), origin)}
    except ValueError as error:
        problems.append(f"{origin}: {name}: {error}")
        return {}


def _nearest(name: str, known: Iterable[str], noun: str) -> str:
    names = list(known)
    near = difflib.get_close_matches(name, names, n=2, cutoff=0.75)
    if near:
        return f"did you mean {' or '.join(near)}?"
    if len(names) > 15:
        return f"etc/streamcache.toml lists the {noun}"
    return f"{noun}: {', '.join(names)}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
