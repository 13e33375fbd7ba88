"""Which authority a command speaks to, and as whom."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from legation.cli.output import note
from legation.clock import Clock, SystemClock
from legation.errors import LegationError

if TYPE_CHECKING:
    from legation.cli.api_client import APIClient
    from legation.cli.credential import OperatorCredential

DEFAULT_SERVER = "127.0.0.1:8443"
# As the agent does with its own certificates: renew while one third remains.
RENEW_AT_REMAINING = 1 / 3
_MINUTE = "%Y-%m-%d %H:%M UTC"


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Where the authority is, and where our credential lies.

    Attributes:
        server: ``host:port``.
        folder: of the operator's credential; None for the usual places.
        timeout_s: how long to wait for each answer.
    """

    server: str
    folder: Path | None
    timeout_s: float

    @contextmanager
    def open(self, clock: Clock | None = None) -> Iterator["APIClient"]:
        """Connect as the operator, after renewing a certificate that nears its end.

        Raises:
            NotFound: there is no credential.
            InvalidInput: the credential or the address cannot be used.
        """
        from legation.cli.api_client import APIClient
        from legation.cli.credential import OperatorCredential, default_folder

        folder = self.folder or default_folder(Path(click.get_app_dir("legation")))
        credential = OperatorCredential.load(folder)
        now = (clock or SystemClock()).now()
        if credential.remaining(now) < RENEW_AT_REMAINING:
            credential = self._renewed(credential)
        with APIClient(self.server, credential, timeout_s=self.timeout_s) as client:
            yield client

    def _renewed(self, credential: "OperatorCredential") -> "OperatorCredential":
        from legation.cli.api_client import APIClient
        from legation.cli.renewal import renew

        end = credential.leaf.not_valid_after_utc
        try:
            with APIClient(self.server, credential, timeout_s=self.timeout_s) as client:
                renewed = renew(client)
        except LegationError as error:
            # Whatever is really wrong, the command itself is about to find it too.
            note(
                f"note: your operator certificate ends at {end:{_MINUTE}} "
                f"and was not renewed: {error.message}"
            )
            return credential
        note(f"note: your operator certificate, which would end at {end:{_MINUTE}}, was renewed")
        return renewed


def connection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--server``, ``--credential`` and ``--timeout``, passed on as `connection`."""

    @click.option(
        "--server",
        envvar="LEGATION_SERVER",
        default=DEFAULT_SERVER,
        show_default=True,
        metavar="HOST:PORT",
        help="Address of the authority's API.  [env: LEGATION_SERVER]",
    )
    @click.option(
        "--credential",
        envvar="LEGATION_CREDENTIAL",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Folder of the operator credential.  [env: LEGATION_CREDENTIAL]",
    )
    @click.option(
        "--request-timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=30.0,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait for an answer.",
    )
    @wraps(command)
    def with_connection(
        *args: Any, server: str, credential: Path | None, request_timeout: float, **kwargs: Any
    ) -> Any:
        connection = Connection(server=server, folder=credential, timeout_s=request_timeout)
        return command(*args, connection=connection, **kwargs)

    return with_connection
