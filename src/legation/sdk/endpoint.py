"""Where the Workload API is served (SPIFFE_Workload_Endpoint.md, sections 3 and 4)."""

import ipaddress
import os
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

from legation.errors import InvalidInput, NotFound

VARIABLE = "SPIFFE_ENDPOINT_SOCKET"
_FORMS = "unix:///run/legation/agent.sock"


def endpoint_target(
    address: str | None,
    *,
    environment: Mapping[str, str] | None = None,
    unsafe_tcp: bool = False,
) -> str:
    """Return the gRPC target for a Workload API address.

    Args:
        address: such as ``unix:///run/legation/agent.sock``; None to take it from
            `SPIFFE_ENDPOINT_SOCKET`.
        environment: where to look for the variable; None for the process's own.
        unsafe_tcp: accept ``tcp://IP:PORT``. Whoever can reach or pretend to be that address
            can read or give the keys.

    Raises:
        NotFound: there is no address.
        InvalidInput: it is not one of the accepted forms.
    """
    if address is None:
        # The one place of the SDK that reads it: an application has no configuration of ours.
        variables = os.environ if environment is None else environment  # noqa: TID251
        address = variables.get(VARIABLE)
    if not address:
        raise NotFound(
            "where the Workload API is served is not known",
            remedy=f"pass an address, or set {VARIABLE}={_FORMS}",
        )
    try:
        parts = urlsplit(address)
    except ValueError:
        raise _not_an_address(address, "it is not a URI") from None
    match parts.scheme:
        case "unix":
            return _unix(address, parts)
        case "tcp":
            return _tcp(address, parts, unsafe_tcp=unsafe_tcp)
        case _:
            raise _not_an_address(address, "its scheme is not unix")


def _unix(address: str, parts: SplitResult) -> str:
    """Section 4.1: an absolute path, and neither authority nor query nor fragment."""
    if parts.netloc:
        raise _not_an_address(address, "a unix address has three slashes or one")
    if "?" in address or "#" in address:
        raise _not_an_address(address, "a unix address has neither query nor fragment")
    if not parts.path.startswith("/") or parts.path == "/" or "\0" in parts.path:
        raise _not_an_address(address, "its path is not absolute")
    return f"unix:{parts.path}"


def _tcp(address: str, parts: SplitResult, *, unsafe_tcp: bool) -> str:
    """Section 4.2: an IP address and a port, nothing else."""
    if not unsafe_tcp:
        raise InvalidInput(
            "keys do not travel over TCP: nothing tells the agent who is asking",
            remedy=f"use {_FORMS}, or pass unsafe_tcp=True",
        )
    if parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        raise _not_an_address(address, "a tcp address is an IP address and a port")
    try:
        host, port = ipaddress.ip_address(parts.hostname or ""), parts.port
    except ValueError:
        raise _not_an_address(address, "a tcp address is an IP address and a port") from None
    if not port:
        raise _not_an_address(address, "it has no port")
    return f"ipv6:[{host}]:{port}" if host.version == 6 else f"ipv4:{host}:{port}"


def _not_an_address(address: str, why: str) -> InvalidInput:
    shown = ascii(address[:120])
    return InvalidInput(f"{shown} is no address of a Workload API: {why}", remedy=f"use {_FORMS}")
