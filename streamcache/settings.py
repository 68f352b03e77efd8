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

    Raises ConfigError that names the place, the key, the value and what is allowed.
    """
    given: dict[str, _Given] = {}
    file = file or environ.get(CONFIG_VARIABLE) or None
    if file is not None:
        given |= _from_file(file)
    given |= _from_environment(environ)
    given |= _from_flags(flags or {})
    try:
        config = _build(given)
    except ConfigError as error:
        # Found by a section as a whole, which cannot know whence its values came.
        name = str(error).partition(":")[0]
        origin = given[name].origin if name in given else "default"
        raise ConfigError(f"{origin}: {error}" if origin != "default" else str(error)) from None
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
    return Config(
        **{
            section: kind(
                **{
                    key: given[f"{section}.{key}"].value
                    for key in TABLE[section]
                    if f"{section}.{key}" in given
                }
            )
            for section, kind in SECTIONS.items()
        }
    )


def _from_file(path: str) -> dict[str, _Given]:
    try:
        with open(path, "rb") as stream:
            document = tomllib.load(stream)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from None
    given = {}
    for section, body in document.items():
        if section not in TABLE:
            raise ConfigError(
                f"{path}: unknown section [{section}]; {_nearest(section, TABLE, 'sections')}"
            )
        if not isinstance(body, dict):
            raise ConfigError(
                f"{path}: {section} = {_shown(body)}: {section} is a section, written [{section}]"
            )
        for key, value in body.items():
            if key not in TABLE[section]:
                raise ConfigError(
                    f"{path}: unknown option {section}.{key} = {_shown(value)}; "
                    + _nearest(key, TABLE[section], f"options of [{section}]")
                )
            given[f"{section}.{key}"] = _read(section, key, value, path)
    return given


def _from_environment(environ: Mapping[str, str]) -> dict[str, _Given]:
    names = {variable(section, key): (section, key) for section in TABLE for key in TABLE[section]}
    given = {}
    for name, text in environ.items():
        if not name.startswith(PREFIX) or name == CONFIG_VARIABLE:
            continue
        if name in names:
            section, key = names[name]
            given[f"{section}.{key}"] = _read(section, key, text, f"${name}")
        elif _INJECTED.fullmatch(name.removeprefix(PREFIX)) is None:
            raise ConfigError(
                f"${name}: unknown option, with the value {_shown(text)}; "
                + _nearest(name, names, "variables")
            )
    return given


def _from_flags(flags: Mapping[str, object]) -> dict[str, _Given]:
    given = {}
    for name, value in flags.items():
        section, _, key = name.partition(".")
        given[name] = _read(section, key, value, TABLE[section][key].flag)
    return given


def _read(section: str, key: str, value: object, origin: str) -> _Given:
    try:
        return _Given(TABLE[section][key].parse(value), origin)
    except ValueError as error:
        raise ConfigError(f"{origin}: {section}.{key}: {error}") from None


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
