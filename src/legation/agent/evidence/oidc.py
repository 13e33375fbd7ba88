"""Tokens of OpenID Connect issuers: given, printed by a program, or asked of GitHub."""

import http.client
import ssl
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from legation.agent.evidence.evidence import Occasion
from legation.errors import InvalidInput, NotPermitted, TimedOut, Unavailable
from legation.wire.canonical import parse_json
from legation.wire.evidence import OIDC

_TIMEOUT_S = 30.0
_MAX_TOKEN = 16 * 1024
_MAX_ANSWER = 256 * 1024


class TokenSource(Protocol):
    """Where a token comes from."""

    def token(self) -> str:
        """Return one; blocking.

        Raises:
            LegationError: it cannot be had.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OIDCToken:
    """Implements `Evidence` with a token, fetched when the authority has proved who it is."""

    source: TokenSource

    @property
    def kind(self) -> str:
        """The word for it."""
        return OIDC

    def document(self, occasion: Occasion) -> Mapping[str, Any]:
        """Return the token."""
        del occasion
        token = self.source.token().strip()
        if not token or len(token) > _MAX_TOKEN or not token.isascii() or not token.isprintable():
            raise InvalidInput("what should be a token to enrol with is none")
        return {"token": token}


@dataclass(frozen=True, slots=True)
class GivenToken:
    """A token that is there already, from a file or a variable."""

    value: str = field(repr=False)

    def token(self) -> str:
        """Return it."""
        return self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandToken:
    """A token that a program prints."""

    argv: tuple[str, ...]

    def token(self) -> str:
        """Run the program."""
        program = self.argv[0]
        try:
            done = subprocess.run(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                check=False,
                timeout=_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            raise TimedOut(f"{program} did not print a token in time") from None
        except OSError as error:
            raise Unavailable(f"{program} cannot be run: {error.strerror}") from None
        if done.returncode:
            raise Unavailable(f"{program} ended with status {done.returncode}, without a token")
        return done.stdout[: _MAX_TOKEN + 1].decode("utf-8", "replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class GitHubToken:
    """A token of GitHub Actions, for a job with ``permissions: id-token: write``.

    Attributes:
        url: ``ACTIONS_ID_TOKEN_REQUEST_URL`` of the job's environment.
        bearer: ``ACTIONS_ID_TOKEN_REQUEST_TOKEN``.
        audience: what the token shall be meant for.
        roots: PEM file to check the server against; the system's roots when None.
    """

    url: str
    bearer: str = field(repr=False)
    audience: str
    roots: Path | None = None

    def token(self) -> str:
        """Ask for one."""
        parts = urlsplit(self.url)
        if parts.scheme != "https" or not parts.hostname:
            raise InvalidInput("ACTIONS_ID_TOKEN_REQUEST_URL is not an https URL")
        query = f"{parts.query}&" if parts.query else ""
        target = f"{parts.path or '/'}?{query}audience={quote(self.audience, safe='')}"
        context = ssl.create_default_context(cafile=self.roots and str(self.roots))
        connection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=_TIMEOUT_S, context=context
        )
        headers = {"authorization": f"Bearer {self.bearer}", "accept": "application/json"}
        try:
            connection.request("GET", target, headers=headers)
            with connection.getresponse() as response:
                content = response.read(_MAX_ANSWER + 1)
        except TimeoutError:
            raise TimedOut("GitHub did not answer the request for a token in time") from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Unavailable(f"GitHub cannot be asked for a token: {error}") from None
        finally:
            connection.close()
        if response.status != 200:
            raise NotPermitted(
                f"GitHub refuses a token, with HTTP status {response.status}",
                remedy="give the job `permissions: id-token: write`",
            )
        match parse_json(content, limit=_MAX_ANSWER):
            case {"value": str(token)}:
                return token
            case _:
                raise Unavailable("GitHub's answer holds no token")
