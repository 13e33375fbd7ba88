"""The how-tos of other people's servers and of drills: what they say to write and to type.

The pages of one machine in one directory are replayed as they stand, in tests/docs. These
speak of many machines: here their places are exchanged for places of the test.
"""

import asyncio
import contextlib
import os
import pwd
import re
import signal
import ssl
import sys
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from legation.agent.enrolment import EnrolmentRequest
from legation.agent.evidence import JoinToken
from legation.agent.wiring import Agent, AgentSettings
from legation.config.sinks import Sink
from legation.demo.callers import HTTP1Connection, call_once
from legation.pki import certificates_from_pem
from legation.sdk import AsyncX509Source
from legation.sdk.authorize import authorize_member_of
from legation.sdk.integrations import streams
from tests.cli.conftest import CLI, RunningAuthority
from tests.support.echo_servers import answer_ok, tcp_echo
from tests.support.pages import Page
from tests.support.sink_servers import HAProxy, PostgreSQL
from tests.support.sinks import IssuedIdentities, client_context, served, stated

API = "spiffe://example.org/api"
ENDED = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


async def typed(
    command: str, authority: RunningAuthority, *, stop_at: str = ""
) -> tuple[int, str, str]:
    """Type a command as an operator has it in a shell; return its status, output and errors.

    With `stop_at` it is stopped by Ctrl-C in the line that has these words.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LEGATION_")} | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "LEGATION_SERVER": f"127.0.0.1:{authority.port}",
        "LEGATION_CREDENTIAL": str(authority.credential),
    }
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", f"set -euo pipefail\n{command}",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    printed = b""
    try:
        async with asyncio.timeout(60):
            if stop_at:
                while stop_at.encode() not in (line := await process.stdout.readline()):
                    assert line, printed
                    printed += line
                os.killpg(process.pid, signal.SIGINT)
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    assert process.returncode is not None
    return process.returncode, (printed + out).decode(), err.decode()


# --- HAProxy -------------------------------------------------------------------------------


class DocumentedHAProxy(HAProxy):
    """HAProxy, configured as the how-to says.

    What it leaves to the reader: the `defaults` of Debian's package, and the backends.
    """

    def __init__(self, directory: Path, *, tcp: int) -> None:
        super().__init__(directory, tcp=tcp)
        page = Page("use-with-haproxy", {
            "/etc/haproxy/identity": str(self.sink_directory),
            "/run/haproxy/admin.sock": str(self.socket),
            "/run/haproxy-master.sock": str(directory / "master.sock"),
            "bind :8443": f"bind 127.0.0.1:{self.port}",
            "127.0.0.1:8443": f"127.0.0.1:{self.port}",
        })  # fmt: skip
        self._text = page.take("text")
        (self._sink,) = tomllib.loads(page.take("toml"))["sink"]
        self._sink["files"] |= tomllib.loads(page.take("toml"))["sink"]["files"]
        self._reject_connection = page.take("text")
        assert page.is_taken

    def sink(self, **changes: Any) -> Sink:
        return Sink.model_validate(self._sink | changes)

    def configure(self) -> None:
        frontend = [line.strip() for line in self._text.partition("frontend api")[2].splitlines()]
        bind = next(line for line in frontend if line.startswith("bind"))
        same = [line for line in frontend if line.startswith("tcp-request session")]
        assert len(same) == 4
        lines = [
            "defaults",
            "mode http",
            *(f"timeout {each} 30s" for each in ("connect", "client", "server")),
            self._text,
            "backend api",
            "http-request return status 200 content-type text/plain string ok",
            "frontend tcp",
            "mode tcp",
            bind.replace(f":{self.port}", f":{self.tcp_port}"),
            *same,
            self._reject_connection,
            "default_backend tcp",
            "backend tcp",
            "mode tcp",
            f"server tcp 127.0.0.1:{self.tcp}",
        ]
        (self.directory / "haproxy.cfg").write_text("\n".join(lines) + "\n")


async def test_haproxy_as_its_page_has_it(short_path: Path) -> None:
    """It staples; a revoked peer's next request, TCP session and handshake are refused."""
    issued = IssuedIdentities()
    issued.respond(issued.rotate(sink="haproxy"))
    async with tcp_echo() as echo:
        server = DocumentedHAProxy(short_path, tcp=echo)
        async with served(server, issued) as running:
            caller, neighbour = issued.certify("/caller"), issued.certify("/neighbour")
            contexts = [client_context(issued, one, short_path) for one in (caller, neighbour)]
            requests = [await HTTP1Connection.open(server.port, one) for one in contexts]
            sessions = [
                await asyncio.open_connection("127.0.0.1", server.tcp_port, ssl=one)
                for one in contexts
            ]
            assert [(await one.get("/")).ok for one in requests] == [True, True]
            assert [await _echoes(*one) for one in sessions] == [True, True]
            assert "OCSP Response Status: successful" in await _handshake(server.port, short_path)
            issued.revoke(caller.serial)
            await stated(running)
            assert [(await one.get("/")).ok for one in requests] == [False, True]
            assert [await _echoes(*one) for one in sessions] == [False, True]
            new = [await call_once(server.port, one, "/") for one in contexts]
            assert [one.ok for one in new] == [False, True]
            assert "revoked" in new[0].error
            for _, writer in sessions:
                writer.transport.abort()
            for one in requests:
                one.close()


async def _echoes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    with contextlib.suppress(OSError):
        writer.write(b"ping")
        return await asyncio.wait_for(reader.read(4), 5) == b"ping"
    return False


async def _handshake(port: int, directory: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        "openssl", "s_client", "-status", "-connect", f"127.0.0.1:{port}",
        "-cert", str(directory / "client.pem"), "-key", str(directory / "client.key"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 20)
    return out.decode()


# --- PostgreSQL ----------------------------------------------------------------------------


class DocumentedPostgreSQL(PostgreSQL):
    """PostgreSQL, configured as the how-to says; `update` is the command of its page."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        page = Page("use-with-postgresql", {
            "/etc/postgresql/identity": str(self.sink_directory),
            "/var/lib/postgresql/15/main": str(self.data),
            "127.0.0.1:5432": f"127.0.0.1:{self.port}",
            "10.0.0.0/8": "127.0.0.1/32",
        })  # fmt: skip
        (self._sink,) = tomllib.loads(page.take("toml"))["sink"]
        self._sink["reload"]["sessions"] |= {
            "socket_directory": str(self.sockets), "port": self.port,
        }  # fmt: skip
        if self.user is None:  # nobody else to give files to
            del self._sink["owner"]
        self._tls = page.take("text")
        by_password = page.take("text")
        self.update = page.take("sh")
        by_name, names = _access(page.take("text"))
        self.roles = page.take("sql") + (
            "create role app login; create role clerk login password 'swordfish'"
        )
        for_agent, agents = _access(page.take("text"))
        assert page.is_taken
        self.local = for_agent + "local postgres postgres peer map=administrator\n"
        self.hba = by_name + by_password
        me = pwd.getpwuid(os.geteuid()).pw_name
        self.idents = names + agents.replace("root", me) + f"administrator {me} postgres\n"

    @property
    def tls(self) -> str:
        return self._tls

    def sink(self, **changes: Any) -> Sink:
        return Sink.model_validate(self._sink | changes)

    async def log_in(self, user: str, context: Any, **options: Any) -> Any:
        """Open a session."""
        return await asyncpg.connect(
            host="127.0.0.1", port=self.port, database="postgres", user=user, ssl=context, **options
        )


def _access(text: str) -> tuple[str, str]:
    """Return what a block has for `pg_hba.conf`, and for `pg_ident.conf`."""
    hba = [
        line.partition(":")[2] for line in text.splitlines() if line.startswith("# pg_hba.conf:")
    ]
    idents = [line for line in text.splitlines() if not line.startswith("#")]
    return "\n".join(hba) + "\n", "\n".join(idents) + "\n"


async def test_postgresql_as_its_page_has_it(short_path: Path) -> None:
    """Common name, or certificate and password, let in; a revoked client's session alone ends."""
    issued, server = IssuedIdentities(), DocumentedPostgreSQL(short_path)
    issued.rotate(sink="postgresql")
    async with served(server, issued) as running:
        billing = issued.certify("/billing", common_name="billing")
        clerk = issued.certify("/clerk")
        named, nameless = (client_context(issued, one, short_path) for one in (billing, clerk))
        session = await server.log_in("app", named)
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
            await server.log_in("app", nameless)
        neighbour = await server.log_in("clerk", nameless, password="swordfish")
        with pytest.raises(asyncpg.InvalidPasswordError):
            await server.log_in("clerk", nameless, password="guessed")
        try:
            assert await session.fetchval("select current_user") == "app"
            issued.revoke(billing.serial)
            await stated(running)
            with pytest.raises(ENDED):
                await session.fetchval("select 1")
            assert await neighbour.fetchval("select current_user") == "clerk"
            with pytest.raises((OSError, asyncpg.PostgresConnectionError)):
                await server.log_in("app", named)
        finally:
            session.terminate()
            neighbour.terminate()


async def test_an_entry_gets_a_common_name_as_the_page_has_it(
    authority: RunningAuthority, short_path: Path
) -> None:
    """The command of the page, for the entry of its example."""
    create = (
        "legation entry create --id billing --spiffe-id spiffe://example.org/billing"
        " --selector unix:user:billing --agent node-1"
    )
    update = DocumentedPostgreSQL(short_path).update
    status, out, err = await typed(f"{create}\n{update}", authority)
    assert status == 0, err
    assert "billing" in out


# --- drills --------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def fleet(
    cli: CLI, authority: RunningAuthority, directory: Path
) -> AsyncIterator[dict[str, str]]:
    """Run the page's two targets: one by the SDK, one that checks the chain and no list."""
    bundle = (authority.credential / "bundle.pem").read_bytes()
    at = authority.connection
    token = cli("token", "create", "node-1", *at).out.strip()
    selector = f"unix:uid:{os.getuid()}"
    made = cli(
        "entry", "create", "--spiffe-id", API, "--selector", selector, "--agent", "node-1", *at
    )
    assert made.status == 0, made.err
    settings = AgentSettings(
        data_dir=directory / "agent",
        socket=directory / "agent.sock",
        enrolment=EnrolmentRequest(
            authority=f"127.0.0.1:{authority.port}",
            evidence=JoinToken(token),
            authorities=certificates_from_pem(bundle),
        ),
    )
    careless = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    careless.verify_mode, careless.num_tickets = ssl.CERT_REQUIRED, 0
    careless.load_verify_locations(authority.credential / "bundle.pem")
    careless.load_cert_chain(authority.credential / "operator.pem")
    async with (
        await Agent.open(settings),
        AsyncX509Source(f"unix://{settings.socket}", spiffe_id=API) as source,
    ):
        await source.wait_ready(20)
        good = await streams.start_server(
            answer, "127.0.0.1", 0, source=source,
            authorize=authorize_member_of("example.org"),
        )  # fmt: skip
        old = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=careless)
        async with good, old:
            yield {
                name: f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
                for name, server in (("api", good), ("old", old))
            }


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer requests, and leave no connection behind."""
    try:
        await answer_ok(reader, writer)
    finally:
        writer.transport.abort()


def drill_page(at: dict[str, str]) -> Page:
    """Return the page, with targets of the test, which speak HTTP/1.1 without ALPN."""
    return Page("drill", {
        "api.example.org:8443=spiffe://example.org/api":
            f"{at['api']}=spiffe://example.org/api,protocol=http1",
        "old.example.org:8443\n": f"{at['old']},protocol=http1 --timeout 2s\n",
        "--target api.example.org:8443 ": f"--target {at['api']},protocol=http1 ",
        "legation drill show 17": "legation drill show $(legation drill list -o json"
            " | jq -r '.items[0].id')",
    })  # fmt: skip


async def test_a_drill_as_its_page_has_it(
    cli: CLI, authority: RunningAuthority, short_path: Path
) -> None:
    """The table has the page's outcomes; the policy is taken; it goes on until it is stopped."""
    async with fleet(cli, authority, short_path) as at:
        page = drill_page(at)
        status, out, err = await typed(page.take("sh"), authority)
        assert (status, f"findings, at {at['old']}" in err) == (1, True), (out, err)
        shown, printed = _outcomes(page.take("text")), _outcomes(out)
        for (target, kind), outcome in shown.items():
            if kind != "open http2":  # neither server speaks it
                assert printed[at[target.partition(".")[0]], kind] == outcome, (target, kind)
        grammar = page.take("text")
        assert "protocol=http1|http2|tcp" in grammar
        status, _, err = await typed(page.take("sh"), authority)
        assert (status, "applied" in err) == (0, True), err
        status, _, err = await typed(page.take("sh"), authority, stop_at="bystander")
        assert status == 130, err
        status, out, err = await typed(page.take("sh"), authority)
        assert (status, page.is_taken) == (0, True), err
        assert '"rows"' in out
        assert '"drill"' in out


def _outcomes(table: str) -> dict[tuple[str, str], str]:
    """Return what a table of a drill has: target and kind, and the outcome."""
    rows = [re.split(r" {2,}", line) for line in table.splitlines()[1:]]
    return {(row[0].partition(":8443")[0] if ":8443" in row[0] else row[0], row[1]): row[2]
            for row in rows if len(row) > 3}  # fmt: skip
