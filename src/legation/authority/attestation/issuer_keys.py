"""The keys of an OpenID Connect issuer, fetched over HTTPS and kept for a while.

OpenID Connect Discovery 1.0, section 4: the configuration is below the issuer's own URL,
names the same issuer, and says where the keys are.
"""

import asyncio
import http.client
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from legation.clock import Clock
from legation.errors import InvalidInput, LegationError, TimedOut, Unavailable
from legation.wire.canonical import parse_json

REFRESH_S: Final = 3600.0
# The most often that an unknown key makes us ask again: anyone may name one.
UNKNOWN_KEY_S: Final = 30.0
# How long keys count when the issuer cannot be reached.
STALE_S: Final = 86_400.0
_TIMEOUT_S = 10.0
_MAX_DOCUMENT = 256 * 1024
_WELL_KNOWN = "/.well-known/openid-configuration"

Fetch = Callable[[str], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Keys:
    by_id: Mapping[str, Mapping[str, Any]]
    fetched_at: float


class IssuerKeys:
    """The current keys of one issuer.

    Args:
        issuer: its URL.
        clock: tells how old the keys are.
        fetch: returns the JSON document behind an https URL; blocking.
    """

    def __init__(self, issuer: str, *, clock: Clock, fetch: Fetch) -> None:
        self._issuer = issuer
        self._clock = clock
        self._fetch = fetch
        self._keys: _Keys | None = None
        self._asked_at: float | None = None
        self._lock = asyncio.Lock()

    async def find(self, key_id: str) -> Mapping[str, Any] | None:
        """Return the JSON Web Key with this id, or None when the issuer has no such.

        Raises:
            Unavailable: the issuer's keys cannot be had.
        """
        async with self._lock:  # who comes meanwhile waits for the same answer
            if self._due(key_id):
                await self._refresh()
            keys = self._keys
        if keys is None or self._clock.monotonic() - keys.fetched_at > STALE_S:
            raise Unavailable(
                f"the keys of {self._issuer} cannot be had",
                remedy="try again; look into the authority's log if it goes on",
            )
        return keys.by_id.get(key_id)

    def _due(self, key_id: str) -> bool:
        now = self._clock.monotonic()
        if self._asked_at is not None and now - self._asked_at < UNKNOWN_KEY_S:
            return False
        keys = self._keys
        return keys is None or key_id not in keys.by_id or now - keys.fetched_at > REFRESH_S

    async def _refresh(self) -> None:
        self._asked_at = self._clock.monotonic()
        try:
            found = await asyncio.to_thread(self._load)
        except LegationError:
            if self._keys is None:
                # The next one asks again: nobody could come in meanwhile.
                self._asked_at = None
                raise
            return  # what is known still counts, up to STALE_S
        self._keys = _Keys(by_id=found, fetched_at=self._clock.monotonic())

    def _load(self) -> Mapping[str, Mapping[str, Any]]:
        match self._fetch(self._issuer.rstrip("/") + _WELL_KNOWN):
            case {"issuer": str(issuer), "jwks_uri": str(where)} if issuer == self._issuer:
                pass
            case _:
                raise Unavailable(f"{self._issuer} has no configuration of its own name")
        match self._fetch(where):
            case {"keys": list(keys)}:
                pass
            case _:
                raise Unavailable(f"{self._issuer} publishes no keys")
        return {
            key["kid"]: key
            for key in keys
            if isinstance(key, dict) and isinstance(key.get("kid"), str) and _signs(key)
        }


def _signs(key: Mapping[str, Any]) -> bool:
    """RFC 7517, sections 4.2 and 4.1; symmetric keys have no business being published."""
    return key.get("use", "sig") == "sig" and key.get("kty") in {"RSA", "EC", "OKP"}


def fetch_json(url: str, *, roots: Path | None) -> Any:
    """Return the JSON document behind an https URL; blocking, and following no redirect.

    Args:
        url: where it is.
        roots: PEM file to check the server against; the system's roots when None.

    Raises:
        Unavailable: the server cannot be reached, is not who it should be, or answers badly.
        TimedOut: it does not answer.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname or parts.username:
            raise Unavailable(f"{url[:200]!a} is not an https URL")
        context = ssl.create_default_context(cafile=None if roots is None else str(roots))
        connection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=_TIMEOUT_S, context=context
        )
        target = parts.path or "/"
        target += f"?{parts.query}" if parts.query else ""
        try:
            connection.request("GET", target, headers={"accept": "application/json"})
            with connection.getresponse() as response:
                content = response.read(_MAX_DOCUMENT + 1)
        finally:
            connection.close()
    except TimeoutError:
        raise TimedOut(f"{url[:200]} does not answer") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise Unavailable(f"{url[:200]} cannot be fetched: {error}") from None
    if response.status != 200:
        raise Unavailable(f"{url[:200]} answers with HTTP status {response.status}")
    try:
        return parse_json(content, limit=_MAX_DOCUMENT)
    except InvalidInput as error:
        raise Unavailable(f"{url[:200]} sends no usable JSON: {error.message}") from None
