"""The status of the agent on this node, asked on its own socket."""

import asyncio
import json
from pathlib import Path
from typing import Any

import click

from legation.cli.output import Column, Row, show_list, show_one
from legation.errors import NotPermitted, TimedOut, Unavailable

_IDENTITIES: tuple[Column, ...] = (
    ("identity", "spiffe_id"),
    ("serial", "serial"),
    ("not after", "not_after"),
    ("next attempt", "next_attempt"),
    ("failures", "failures"),
    ("problem", "problem"),
)


def _freshness(row: Row) -> str:
    found = row["freshness"]
    if found is None:
        return ""
    words: str = found["state"].replace("_", " ")
    return f"{words}, {found['left_s']:.0f} s left" if found["left_s"] else words


_POINTS: tuple[Column, ...] = (
    ("enforcement point", "id"),
    ("kind", "kind"),
    ("spiffe id", "spiffe_id"),
    ("revision", "revision"),
    ("freshness", _freshness),
    ("notes", "notes"),
)
_REFUSALS: tuple[Column, ...] = (
    ("point", "point"),
    ("cause", "cause"),
    ("peer", "peer"),
    ("serial", "serial"),
    ("count", "count"),
)
_SINKS: tuple[Column, ...] = (
    ("sink", "name"),
    ("spiffe id", "spiffe_id"),
    ("state", "state"),
    ("issued", "issued"),
    ("in force", "in_force"),
    ("revision", "revision"),
    ("problem", "problem"),
)
_ATTESTATION = (("source of selectors", "source"), ("problem", "problem"))
_TABLES = (
    ("attestation", _ATTESTATION),
    ("identities", _IDENTITIES),
    ("sinks", _SINKS),
    ("points", _POINTS),
    ("refusals", _REFUSALS),
)


def fetch(socket: Path, *, timeout_s: float) -> dict[str, Any]:
    """Ask the agent at `socket`.

    Raises:
        Unavailable: nobody answers there.
        NotPermitted: the agent does not answer this user.
        TimedOut: the answer did not come in time.
    """
    return asyncio.run(_fetch(socket, timeout_s))


async def _fetch(socket: Path, timeout_s: float) -> dict[str, Any]:
    from grpclib.client import Channel
    from grpclib.const import Status
    from grpclib.exceptions import GRPCError, StreamTerminatedError

    from legation.wire.protobuf.local_grpc import LocalServiceStub
    from legation.wire.protobuf.local_pb2 import StatusRequest

    channel = Channel(path=str(socket))
    try:
        response = await LocalServiceStub(channel).Status(StatusRequest(), timeout=timeout_s)
    except GRPCError as error:
        if error.status is Status.DEADLINE_EXCEEDED:
            raise TimedOut(f"the agent at {socket} did not answer in time") from None
        raise NotPermitted(f"the agent at {socket} refuses: {error.message}") from None
    except TimeoutError:
        raise TimedOut(f"the agent at {socket} did not answer in time") from None
    except (OSError, StreamTerminatedError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Unavailable(
            f"no agent answers at {socket}: {reason}",
            remedy="check the path, and that `legation agent run` runs",
        ) from None
    finally:
        channel.close()
    document: dict[str, Any] = json.loads(response.document)
    return document


def show(document: dict[str, Any], *, output: str) -> None:
    """Show what the agent said."""
    if output != "table":
        show_one(document, output=output)
        return
    elsewhere = {"schema_version", *(name for name, _ in _TABLES)}
    show_one(
        {name: value for name, value in document.items() if name not in elsewhere}, output=output
    )
    for name, columns in _TABLES:
        if document.get(name):
            click.echo()
            show_list(document[name], columns, output=output)
