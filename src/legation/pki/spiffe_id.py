"""SPIFFE IDs and trust domains, exactly as the SPIFFE ID standard defines them.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md, sections 2.1 to 2.4.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from legation.errors import InvalidInput

SCHEME = "spiffe://"
MAX_TRUST_DOMAIN_LENGTH = 255
MAX_ID_LENGTH = 2048

# `\Z`, not `$`: `$` lets a trailing newline slip through.
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+\Z", re.ASCII)
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+\Z", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class TrustDomain:
    """The name of a trust domain, for example ``example.org``.

    The constructor checks as `parse` does; there is no way to hold an invalid one.
    """

    name: str

    def __post_init__(self) -> None:
        if not self.name:
            raise InvalidInput("a trust domain must not be empty")
        if len(self.name) > MAX_TRUST_DOMAIN_LENGTH:
            raise InvalidInput(
                f"a trust domain has at most {MAX_TRUST_DOMAIN_LENGTH} characters, "
                f"this one {len(self.name)}"
            )
        if not _TRUST_DOMAIN.match(self.name):
            raise InvalidInput(
                f"{_shown(self.name)} is not a trust domain",
                remedy="use lower-case letters, digits, dots, dashes and underscores only",
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a trust domain name or the ``spiffe://`` form of it.

        Raises:
            InvalidInput: the text breaks a rule of the standard.
        """
        return cls(text.removeprefix(SCHEME))

    @property
    def id(self) -> "SpiffeID":
        """The SPIFFE ID of the trust domain itself, which has no path."""
        return SpiffeID(self)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, order=True)
class SpiffeID:
    """A SPIFFE ID: a trust domain and a path that is empty or starts with a slash."""

    trust_domain: TrustDomain
    path: str = ""

    def __post_init__(self) -> None:
        length = len(SCHEME) + len(self.trust_domain.name) + len(self.path)
        if length > MAX_ID_LENGTH:
            raise InvalidInput(f"a SPIFFE ID has at most {MAX_ID_LENGTH} bytes, this one {length}")
        if not self.path:
            return
        if not self.path.startswith("/"):
            raise InvalidInput(
                f"the path of a SPIFFE ID starts with a slash, not {_shown(self.path)}"
            )
        for segment in self.path[1:].split("/"):
            if segment in {"", ".", ".."} or not _SEGMENT.match(segment):
                raise InvalidInput(
                    f"{_shown(segment)} is not a path segment of a SPIFFE ID",
                    remedy="use letters, digits, dots, dashes and underscores, "
                    "no empty segment, no '.' or '..', no trailing slash",
                )

    @classmethod
    def parse(cls, text: str) -> "SpiffeID":
        """Read a SPIFFE ID such as ``spiffe://example.org/ns/prod/api``.

        Raises:
            InvalidInput: the text breaks a rule of the standard.
        """
        return _parse(text)

    def __hash__(self) -> int:
        # Both texts keep theirs; a tuple of fields would ask the trust domain for its own.
        return hash((self.trust_domain.name, self.path))

    def is_member_of(self, trust_domain: TrustDomain) -> bool:
        """Tell whether this identity belongs to `trust_domain`."""
        return self.trust_domain == trust_domain

    def __str__(self) -> str:
        return f"{SCHEME}{self.trust_domain.name}{self.path}"


# Peers present the same few identities over and over.
@lru_cache(maxsize=4096)
def _parse(text: str) -> SpiffeID:
    if len(text) > MAX_ID_LENGTH:
        raise InvalidInput(f"a SPIFFE ID has at most {MAX_ID_LENGTH} bytes, this one {len(text)}")
    if not text.startswith(SCHEME):
        raise InvalidInput(
            f"{_shown(text)} is not a SPIFFE ID", remedy="a SPIFFE ID starts with spiffe://"
        )
    authority, slash, path = text[len(SCHEME) :].partition("/")
    return SpiffeID(TrustDomain(authority), slash + path)


def _shown(text: str) -> str:
    """Quote foreign text for an error message: one line, bounded."""
    quoted = ascii(text)
    return quoted if len(quoted) <= 80 else quoted[:77] + "..."
