"""The agent's configuration."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema, model_validator

from legation.config.attestation import Enrolment, WorkloadAttestation
from legation.config.sinks import Sinks
from legation.config.values import (
    Address,
    CredentialName,
    ListenAddress,
    Log,
    Section,
    ServerAddress,
    TrustDomainName,
)
from legation.config.windows import FreezeWindow


def _mode(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        mode = value
    elif isinstance(value, str) and 1 <= len(value) <= 6 and set(value) <= set("01234567"):
        mode = int(value, 8)
    else:
        raise ValueError('not a file mode; write "0660"')
    if mode & ~0o777 or mode & 0o600 != 0o600:
        raise ValueError(
            "a socket's mode gives its owner at least read and write, and sets no s bit"
        )
    return mode


SocketMode = Annotated[
    int,
    BeforeValidator(_mode),
    PlainSerializer(lambda mode: f"{mode:04o}", return_type=str),
    WithJsonSchema({"type": "string", "pattern": "^0?[67][0-7]{2}$"}),
]


class Server(Section):
    """Where the authority is.

    Attributes:
        api: its HTTPS address.
    """

    api: ServerAddress = Address("127.0.0.1", 8443)


class Socket(Section):
    """The local socket: Workload API and Envoy's discovery services.

    Attributes:
        path: of the socket.
        mode: its permissions. Callers are attested one by one, so all may connect by default.
        group: name or number of the group that owns it; the agent's own when None.
    """

    path: Annotated[Path, Field(description="at most 107 bytes")] = Path("/run/legation/agent.sock")
    mode: Annotated[SocketMode, Field(json_schema_extra={"default": "0666"})] = 0o666
    group: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}$")] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        # sun_path has 108 bytes with its terminator, unix(7).
        if len(bytes(self.path)) > 107:
            raise ValueError("the path of a Unix socket has at most 107 bytes")
        return self


class Listen(Section):
    """Where the agent listens besides its socket; port 0 takes a free one.

    Attributes:
        metrics: plain HTTP: `/metrics` for Prometheus, to whoever asks; off by default.
    """

    metrics: Annotated[ListenAddress | None, Field(examples=["127.0.0.1:8082"])] = None


class Rotation(Section):
    """When certificates are renewed.

    Attributes:
        renew_at_remaining: fraction of the lifetime that remains when renewal starts.
        jitter: fraction of that moment by which it moves at random, so that agents spread out.
        revoke_replaced: whether a certificate is revoked once the next one is in force at every
            enforcement point that serves its identity.
        freeze: windows in UTC in which nothing is rotated that can wait, every week or once.
    """

    renew_at_remaining: Annotated[float, Field(ge=0.05, le=0.95)] = 0.3333
    jitter: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    revoke_replaced: bool = False
    freeze: Annotated[
        tuple[FreezeWindow, ...],
        Field(
            max_length=32,
            examples=[["Fri 16:00/Mon 08:00", "2030-12-20T00:00:00Z/2031-01-04T00:00:00Z"]],
        ),
    ] = ()


class AgentConfig(Section):
    """An agent's configuration.

    Attributes:
        trust_domain: the trust domain to join; learnt at enrolment when None.
        name: what to call this agent in messages; its identity is the join token's.
        data_dir: directory of its keys and its copy of the feed.
        trust_bundle_file: PEM file with the trust domain's roots, to enrol under.
        ca_fingerprint: SHA-256 of a root certificate, to enrol under, instead of the file.
        join_token_file: file with the join token.
        join_token_credential: systemd credential with the join token.
        sink: tables of identities kept as files, and of the servers that use them.
    """

    trust_domain: TrustDomainName | None = None
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$")] | None = None
    data_dir: Path = Path("/var/lib/legation/agent")
    trust_bundle_file: Path | None = None
    ca_fingerprint: Annotated[str, Field(pattern=r"^(sha256:)?[0-9a-f]{64}$")] | None = None
    join_token_file: Path | None = None
    join_token_credential: CredentialName | None = None
    server: Server = Server()
    socket: Socket = Socket()
    listen: Listen = Listen()
    rotation: Rotation = Rotation()
    enrolment: Enrolment = Enrolment()
    attestation: WorkloadAttestation = WorkloadAttestation()
    sink: Sinks = ()
    log: Log = Log()

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.trust_bundle_file and self.ca_fingerprint:
            raise ValueError("trust_bundle_file and ca_fingerprint exclude each other")
        if self.join_token_file and self.join_token_credential:
            raise ValueError("join_token_file and join_token_credential exclude each other")
        return self
