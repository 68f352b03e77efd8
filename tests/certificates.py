"""Certificates for tests: made once, signed by themselves, for this machine."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.requirements import program

EC = ("ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
RSA = ("rsa:2048",)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate, which is its own authority, and its key."""

    certificate: str
    key: str

    @property
    def options(self) -> dict[str, object]:
        """Of ``[server]``."""
        return {"tls_certificate": self.certificate, "tls_key": self.key}

    def toml(self) -> str:
        """The section ``[server]`` of a file."""
        return f'[server]\ntls_certificate = "{self.certificate}"\ntls_key = "{self.key}"\n'


def make(folder: Path, name: str = "localhost", kind: tuple[str, ...] = EC) -> Pair:
    """A new pair for the host ``name``, and for 127.0.0.1."""
    pair = Pair(os.fspath(folder / f"{name}.crt"), os.fspath(folder / f"{name}.key"))
    subprocess.run(
        [
            *(program("openssl"), "req", "-x509", "-nodes", "-days", "30", "-newkey", *kind),
            *("-out", pair.certificate, "-keyout", pair.key, "-subj", f"/CN={name}"),
            *("-addext", f"subjectAltName=DNS:{name},IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    return pair
