"""Sinks: where an agent keeps identities as files, and the servers that use them."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

from legation.config.values import Duration, Section, ServerAddress
from legation.errors import LegationError
from legation.pki.spiffe_id import SpiffeID

_ARGUMENT = re.compile(r"[^\x00]{1,4096}\Z")


def _mode(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        mode = value
    elif isinstance(value, str) and 1 <= len(value) <= 6 and set(value) <= set("01234567"):
        mode = int(value, 8)
    else:
        raise ValueError('not a file mode; write "0640"')
    if mode & ~0o660 or mode & 0o400 != 0o400:
        raise ValueError("a private key is for its owner and one group: at most 0660")
    return mode


def _absolute(path: Path) -> Path:
    if not path.is_absolute() or ".." in path.parts or not str(path).isprintable():
        raise ValueError("not an absolute path")
    return path


def _spiffe_id(text: str) -> str:
    try:
        return str(SpiffeID.parse(text))
    except LegationError as error:
        raise ValueError(str(error)) from None


def _program(arguments: tuple[str, ...]) -> tuple[str, ...]:
    if not arguments or not all(map(_ARGUMENT.match, arguments)):
        raise ValueError("a command is a program and its arguments, none of them empty")
    if not arguments[0].startswith("/"):
        raise ValueError("the program is named by its absolute path; no shell looks it up")
    return arguments


FileMode = Annotated[
    int,
    BeforeValidator(_mode),
    PlainSerializer(lambda mode: f"{mode:04o}", return_type=str),
    WithJsonSchema({"type": "string", "pattern": "^0?[4-6][0-6]0$"}),
]
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
# One name inside the directory of a generation, never a path.
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$")]
Owner = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}$")]
Program = Annotated[tuple[str, ...], Field(max_length=64), AfterValidator(_program)]
_SHORT = timedelta(seconds=10)


class SinkFiles(Section):
    """Which files are written, and what they are called; those without a name are not.

    Attributes:
        chain: the certificate chain, PEM, leaf first, without the root.
        key: the private key, PEM (PKCS #8).
        combined: chain, then key, in one PEM file.
        bundle: the roots of the trust domain, PEM: whom to trust as a client's issuer.
        crl: the revocation lists of every issuer, root included, PEM.
        revoked: what those lists name, a line `SERIAL 1;` each with the serial number in
            hexadecimal: a map, for HAProxy and nginx to look up on each request.
        ocsp_staple: the OCSP response about the certificate, DER, for the server to staple; one
            that says "try later" while there is none.
        pkcs12: key and chain for Java, PKCS #12, encrypted with `pkcs12_password_file`.
        pkcs12_password_file: file with that password; its first line counts.
    """

    chain: FileName | None = None
    key: FileName | None = None
    combined: FileName | None = None
    bundle: FileName | None = None
    crl: FileName | None = None
    revoked: FileName | None = None
    ocsp_staple: FileName | None = None
    pkcs12: FileName | None = None
    pkcs12_password_file: AbsolutePath | None = None

    @model_validator(mode="after")
    def _serves(self) -> Self:
        names = [name for name in self.names.values() if name]
        if len(set(names)) != len(names):
            raise ValueError("two files have one name")
        if not (self.combined or self.pkcs12 or (self.chain and self.key)):
            raise ValueError("chain and key, combined or pkcs12 is needed: nothing names a key")
        if bool(self.pkcs12) != bool(self.pkcs12_password_file):
            raise ValueError("pkcs12 and pkcs12_password_file go together")
        if self.revoked and not self.crl:
            raise ValueError("revoked says what the lists of crl name, and goes with it")
        return self

    @property
    def names(self) -> dict[str, str | None]:
        """The name of each kind of file."""
        return self.model_dump(exclude={"pkcs12_password_file"})


class ReloadNothing(Section):
    """The server looks at its files by itself, as Prometheus does."""

    kind: Literal["none"] = "none"


class ReloadBySignal(Section):
    """The server is sent a signal.

    Attributes:
        pid_file: its process id stands in the first line.
        signal: which one.
    """

    kind: Literal["signal"]
    pid_file: AbsolutePath
    signal: Literal["HUP", "USR1", "USR2"] = "HUP"


class ReloadByCommand(Section):
    """A program is run.

    Attributes:
        command: program and arguments; no shell is in between.
    """

    kind: Literal["command"]
    command: Program


class ReloadByHTTP(Section):
    """A request is sent; every status of 200 to 299 means that it was heard.

    Attributes:
        url: over plain HTTP, so only to this machine.
        method: of the request.
    """

    kind: Literal["http"]
    url: Annotated[
        str, Field(pattern=r"^http://(127\.0\.0\.1|\[::1\]|localhost)(:[0-9]{1,5})?(/[!-~]*)?$")
    ]
    method: Literal["GET", "POST", "PUT"] = "POST"


class ReloadNginx(Section):
    """nginx: its master is sent HUP, and must replace its workers.

    Attributes:
        pid_file: of the master.
    """

    kind: Literal["nginx"]
    pid_file: AbsolutePath = Path("/run/nginx.pid")


class ReloadHAProxy(Section):
    """HAProxy: certificate, CA file and CRL are replaced through its runtime interface.

    Attributes:
        socket: of `stats socket … level admin`.
        master_socket: of `haproxy -W -S …`, for what this HAProxy cannot do at runtime.
        table: the stick table in which HAProxy keeps whose each open connection is, so that
            those of revoked peers can be ended; None where it keeps none.
    """

    kind: Literal["haproxy"]
    socket: AbsolutePath = Path("/run/haproxy/admin.sock")
    master_socket: AbsolutePath | None = None
    table: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")] | None = None


class PostgreSQLSessions(Section):
    """How the agent ends open sessions: as a role of its own, over the Unix socket.

    The password, where one is needed, is in libpq's password file and nowhere else.

    Attributes:
        socket_directory: `unix_socket_directories` of the server.
        port: part of the socket's name.
        role: has the roles `pg_read_all_stats` and `pg_signal_backend`.
        database: to connect to; none of its contents is looked at.
        password_file: in libpq's format, or None for peer authentication.
        psql: PostgreSQL's own client.
    """

    socket_directory: AbsolutePath = Path("/run/postgresql")
    port: Annotated[int, Field(ge=1, le=65535)] = 5432
    role: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,63}$")] = "legation"
    database: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f=:/]{1,63}$")] = "postgres"
    password_file: AbsolutePath | None = None
    psql: AbsolutePath = Path("/usr/bin/psql")


class ReloadPostgreSQL(Section):
    """PostgreSQL: its postmaster is sent HUP, which is what `pg_reload_conf()` does.

    Attributes:
        data_directory: where postmaster.pid is.
        sessions: how to end those of revoked clients; None to let them go on.
    """

    kind: Literal["postgresql"]
    data_directory: AbsolutePath
    sessions: PostgreSQLSessions | None = None


class ReloadRedis(Section):
    """Redis: `CONFIG SET` of its TLS files.

    Attributes:
        socket: its Unix socket.
        password_file: file with the password of the user `default`, or None for none.
    """

    kind: Literal["redis"]
    socket: AbsolutePath = Path("/run/redis/redis-server.sock")
    password_file: AbsolutePath | None = None


Reload: TypeAlias = Annotated[
    ReloadNothing
    | ReloadBySignal
    | ReloadByCommand
    | ReloadByHTTP
    | ReloadNginx
    | ReloadHAProxy
    | ReloadPostgreSQL
    | ReloadRedis,
    Field(discriminator="kind"),
]


class SinkProbe(Section):
    """Where to look, from outside, whether the new certificate is served.

    Attributes:
        address: of the server.
        starttls: what to say before TLS.
        server_name: for the server name indication.
        timeout: how long the server may take to serve the new certificate.
    """

    address: ServerAddress
    starttls: Literal["postgres"] | None = None
    server_name: Annotated[str, Field(max_length=253)] | None = None
    timeout: Duration = _SHORT


class Sink(Section):
    """One directory that holds an identity, and one server that uses it.

    Attributes:
        name: the selector `sink:name:NAME` gives an entry to this sink.
        spiffe_id: the identity, where several entries have that selector.
        directory: its own; the server's configuration names files below `current` in it.
        owner: user who owns the files; the agent's own when None.
        group: group that may read them; the owner's own, without any right, when None.
        mode: of the files; "0600" without a group, "0640" with one.
        files: which ones.
        check: program that is run before a reload and fails if the server could not start.
        reload: how the server is told.
        command_timeout: for `check` and the reload.
        probe: where to see what is served; without it nothing is ever confirmed.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    directory: AbsolutePath
    files: SinkFiles
    spiffe_id: Annotated[str, AfterValidator(_spiffe_id)] | None = None
    owner: Owner | None = None
    group: Owner | None = None
    mode: FileMode | None = None
    check: Program | None = None
    reload: Reload = ReloadNothing()
    command_timeout: Duration = _SHORT
    probe: SinkProbe | None = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        reload, files = self.reload, self.files
        if isinstance(reload, ReloadRedis):
            if files.crl:
                raise ValueError("Redis has no revocation lists; leave out files.crl")
            if not (files.chain and files.key and files.bundle):
                raise ValueError("Redis needs files.chain, files.key and files.bundle")
        if isinstance(reload, ReloadHAProxy) and not files.combined:
            raise ValueError("HAProxy needs files.combined")
        if isinstance(reload, ReloadHAProxy) and files.ocsp_staple not in {
            None,
            f"{files.combined}.ocsp",
        }:
            raise ValueError("HAProxy looks for files.ocsp_staple beside files.combined, as .ocsp")
        if isinstance(reload, ReloadHAProxy) and reload.table and not files.revoked:
            raise ValueError("table ends connections, and files.revoked keeps them ended")
        if isinstance(reload, ReloadPostgreSQL) and reload.sessions and not files.crl:
            raise ValueError("sessions ends what files.crl refuses; name that file")
        return self

    @property
    def file_mode(self) -> int:
        """The mode of the files."""
        if self.mode is not None:
            return self.mode
        return 0o600 if self.group is None else 0o640

    @property
    def selectors(self) -> frozenset[str]:
        """What this sink shows: an entry is delivered to it when these contain its selectors."""
        return frozenset({f"sink:name:{self.name}"})


def require_separate(sinks: tuple[Sink, ...]) -> tuple[Sink, ...]:
    """Return the sinks if no two share a name or a directory.

    Raises:
        ValueError: two do.
    """
    for what in ("name", "directory"):
        values = [str(getattr(sink, what)) for sink in sinks]
        twice = {value for value in values if values.count(value) > 1}
        if twice:
            raise ValueError(f"two sinks have one {what}: {min(twice)}")
    return sinks


Sinks: TypeAlias = Annotated[
    tuple[Sink, ...], Field(max_length=256), AfterValidator(require_separate)
]
