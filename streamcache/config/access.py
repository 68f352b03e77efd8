"""``[access]``: who may read what."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from streamcache.options import Kind, check_fields, option

if TYPE_CHECKING:
    from streamcache.access.authorize import AccessRules


@dataclass(frozen=True, slots=True)
class AccessConfig:
    """Who may read what."""

    networks: str = field(
        default="",
        metadata=option(
            Kind.TEXT,
            "who may connect: allow or deny, and all, an address, a network or unix, with commas"
            " between them; the first that fits decides; empty: everybody",
            reload=True,
        ),
    )
    trusted_proxies: str = field(
        default="",
        metadata=option(
            Kind.TEXT,
            "addresses, networks or unix, with commas between them: the proxies whose"
            " X-Forwarded-For says who the client is; nobody else's is believed",
            reload=True,
        ),
    )
    proxy_protocol: bool = field(
        default=False,
        metadata=option(
            Kind.BOOL,
            "every connection begins with a PROXY header (version 1 or 2) and comes from one of"
            " trusted_proxies; others are closed",
        ),
    )
    keys: str = field(
        default="",
        metadata=option(
            Kind.PATH,
            "a file of keys, lines of an id and hexadecimal digits: then a signed URL is needed"
            ' (see "streamcache sign --help"), or a password; empty: none',
            reload=True,
        ),
    )
    htpasswd: str = field(
        default="",
        metadata=option(
            Kind.PATH,
            "a file of users and bcrypt hashes (htpasswd -B): then a password is needed, or a"
            " signed URL; empty: none; needs the package bcrypt",
            reload=True,
        ),
    )
    realm: str = field(
        default="streamcache",
        metadata=option(
            Kind.TEXT, "what a browser calls the place that it asks a password for", reload=True
        ),
    )

    def __post_init__(self) -> None:
        check_fields(self, "access")
        if self.restricts:
            from streamcache.access.authorize import Access

            Access(self.rules())  # raises ConfigError

    @property
    def restricts(self) -> bool:
        """Whether anything is configured."""
        return any(getattr(self, each.name) != each.default for each in dataclasses.fields(self))

    def rules(self, *, keys: bytes | None = None, htpasswd: bytes | None = None) -> AccessRules:
        """What is configured, with the bytes of its files."""
        from streamcache.access.authorize import AccessRules
        from streamcache.access.networks import entries

        return AccessRules(
            networks=entries(self.networks),
            trusted_proxies=entries(self.trusted_proxies),
            proxy_protocol=self.proxy_protocol,
            keys=keys,
            htpasswd=htpasswd,
            realm=self.realm,
        )
