"""The certificate of a listener and its key: read, and checked.

Read by whoever starts the server, before anything is served, and by a worker thread at a reload.
"""

from __future__ import annotations

import ssl
from typing import Final

from streamcache.config.server import ServerConfig
from streamcache.errors import ConfigError
from streamcache.server.optionfile import read_option_file
from streamcache.server.tls import TlsTransport
from streamcache.server.transport import SocketTransport

# Of TLS 1.2; those of 1.3 are all good. Each has forward secrecy and is an AEAD (RFC 9325 4.2).
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
# The last: OpenSSL has put the certificate aside, as the key is of another kind.
_MISMATCH: Final = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")


class Certificate:
    """What clients are shown; ``wrap`` begins TLS on a connection."""

    def __init__(self, config: ServerConfig) -> None:
        """Raises ConfigError that begins with the option's name."""
        self._path = config.tls_certificate
        self._key_path = config.tls_key
        self._context = self._load()

    def __repr__(self) -> str:
        return f"<Certificate {self._path}>"

    def wrap(self, socket: SocketTransport, received: bytes = b"") -> TlsTransport:
        """TLS on this connection, of which ``received`` has been read already."""
        return TlsTransport(socket, self._context, received)

    def _load(self) -> ssl.SSLContext:
        option, key_path = "server.tls_key", self._key_path or self._path
        if b"-----BEGIN CERTIFICATE-----" not in read_option_file(
            "server.tls_certificate", self._path
        ):
            raise ConfigError(
                f"server.tls_certificate: {self._path} has no certificate; allowed: a PEM file with"
                " the server's own certificate first, then those that lead to a known authority"
            )
        key = read_option_file(option, key_path)
        if b"PRIVATE KEY-----" not in key:
            raise ConfigError(
                f"{option}: {key_path} has no private key; allowed: a PEM file, or none if the"
                " certificate's file has the key"
            )
        if b"ENCRYPTED" in key:
            raise ConfigError(
                f"{option}: the key in {key_path} is encrypted; allowed: one without a password"
            )
        context = _context()
        try:
            context.load_cert_chain(self._path, key_path)
        except ssl.SSLError as error:
            if error.reason in _MISMATCH:
                raise ConfigError(
                    f"{option}: {key_path} is not the key of {self._path}; allowed: the key that"
                    " belongs to the first certificate there"
                ) from None
            reason = (error.reason or "no reason given").lower().replace("_", " ")
            raise ConfigError(
                f"server.tls_certificate: {self._path} with the key in {key_path} cannot be used:"
                f" {reason}; allowed: PEM files"
            ) from None
        except OSError as error:  # between two looks
            raise ConfigError(
                f"server.tls_certificate: {self._path} cannot be read: {error.strerror}; allowed:"
                " a file that can be read"
            ) from None
        return context


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    # A client of TLS 1.2 could have us do the dear half of a handshake over and over.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 1
    return context
