"""A whole deployment on loopback, run by the real command line, for the demo and the tests."""

import asyncio
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from legation.config.ports import unused_port
from legation.demo.processes import ChildProcess, command_line, listening
from legation.errors import LegationError
from legation.proxy.envoy_binary import find_envoy

TRUST_DOMAIN = "demo.legation"
AGENT_NAME = "node-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The loopback ports of one deployment."""

    api: int = field(default_factory=unused_port)
    status: int = field(default_factory=unused_port)


@dataclass(slots=True, kw_only=True)
class ProxyHandle:
    """One running proxy: its supervisor, and where it listens."""

    process: ChildProcess
    envoy: Path
    admin: Path


class Deployment:
    """An authority, one agent and any number of proxies and services in one directory.

    Every process is started as an operator would start it, and ended by `stop`, in the
    reverse order.

    Args:
        directory: an empty directory of ours; everything lives below it.
        environment: for the children; the caller's own, as a rule.
        server: extra tables for the authority's configuration.
        agent: extra tables for the agent's configuration.
    """

    def __init__(
        self,
        directory: Path,
        *,
        environment: Mapping[str, str],
        server: Mapping[str, Any] | None = None,
        agent: Mapping[str, Any] | None = None,
    ) -> None:
        self.directory = directory
        self.ports = Ports()
        self.logs = directory / "logs"
        self.logs.mkdir(mode=0o700)
        self.socket = directory / "agent" / "agent.sock"
        self.credential = directory / "authority" / "operator"
        self._environment = {
            **environment,
            "LEGATION_SERVER": f"127.0.0.1:{self.ports.api}",
            "LEGATION_CREDENTIAL": str(self.credential),
        }
        self._server_config = self._write_server_config(server or {})
        self._agent_config = self._write_agent_config(agent or {})
        self._children: list[ChildProcess] = []
        self.authority: ChildProcess | None = None
        self.agent: ChildProcess | None = None

    async def start(self) -> None:
        """Initialise and start the authority, and enrol and start the agent."""
        await self.cli("server", "init", "--config", str(self._server_config))
        await self.start_authority()
        token = json.loads(await self.cli("token", "create", AGENT_NAME, "-o", "json"))
        token_file = self.directory / "agent" / "join-token"
        token_file.write_text(token["token"])
        token_file.chmod(0o600)
        await self.start_agent()

    async def start_authority(self) -> None:
        """Start the authority and wait until it is ready."""
        self.authority = await self.spawn(
            "authority", command_line("server", "run", "--config", str(self._server_config))
        )
        await self.authority.wait_until(
            lambda: listening(self.ports.status) and listening(self.ports.api), what="to be ready"
        )

    async def kill_authority(self) -> None:
        """End the authority with SIGKILL, as a crash would."""
        if self.authority is not None:
            await self.authority.kill()

    async def start_agent(self) -> None:
        """Start the agent and wait until its socket answers."""
        self.agent = await self.spawn(
            "agent", command_line("agent", "run", "--config", str(self._agent_config))
        )
        await self.agent.wait_until(self.socket.exists, what="its socket")

    async def restart_agent(self) -> None:
        """End the agent and start it again."""
        if self.agent is not None:
            await self.agent.stop()
        await self.start_agent()

    async def start_proxy(
        self, name: str, *, inbound: Sequence[str] = (), outbound: Sequence[str] = ()
    ) -> ProxyHandle:
        """Start one Envoy under its supervisor, with an executable path of its own.

        The path is what the agent attests, so that each proxy gets its own identity only.
        """
        envoy = self.envoy_path(name)
        runtime = self.directory / "proxies" / name
        arguments = ["--socket", str(self.socket), "--envoy", str(envoy)]
        arguments += ["--runtime-dir", str(runtime), "--name", name]
        for flag in inbound:
            arguments += ["--inbound", flag]
        for flag in outbound:
            arguments += ["--outbound", flag]
        process = await self.spawn(f"proxy-{name}", command_line("proxy", "run", *arguments))
        ports = [_port_of(flag) for flag in (*inbound, *outbound)]
        await process.wait_until(
            lambda: all(listening(port) for port in ports), what="its listeners"
        )
        return ProxyHandle(process=process, envoy=envoy, admin=runtime / "admin.sock")

    def envoy_path(self, name: str) -> Path:
        """Return the path of an Envoy executable that only proxy `name` runs."""
        path = self.directory / "bin" / f"envoy-{name}"
        if not path.exists():
            path.parent.mkdir(mode=0o755, exist_ok=True)
            binary = find_envoy()
            try:
                os.link(binary, path)
            except OSError:  # another file system
                shutil.copy2(binary, path)
        return path

    async def spawn(self, name: str, argv: list[str]) -> ChildProcess:
        """Start a child that `stop` will end."""
        child = await ChildProcess.start(
            name, argv, log=self.logs / f"{name}.log", environment=self._environment
        )
        self._children.append(child)
        return child

    async def cli(self, *arguments: str, input_text: str | None = None) -> str:
        """Run one command as an operator would, and return what it printed.

        Raises:
            LegationError: it failed; the message is what it said.
        """
        process = await asyncio.create_subprocess_exec(
            *command_line(*arguments),
            stdin=asyncio.subprocess.PIPE if input_text else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment,
        )
        output, errors = await process.communicate(input_text.encode() if input_text else None)
        if process.returncode:
            raise LegationError(
                f"legation {' '.join(arguments)}: status {process.returncode}: "
                f"{errors.decode().strip()}"
            )
        return output.decode()

    async def cli_json(self, *arguments: str) -> Any:
        """Run one command with ``-o json`` and return what it printed, parsed."""
        return json.loads(await self.cli(*arguments, "-o", "json"))

    async def stop(self) -> None:
        """End every child, the newest first."""
        while self._children:
            await self._children.pop().stop()

    def _write_server_config(self, extra: Mapping[str, Any]) -> Path:
        data = self.directory / "authority"
        data.mkdir(mode=0o700)
        return _write_toml(
            self.directory / "server.toml",
            {
                "trust_domain": TRUST_DOMAIN,
                "data_dir": str(data),
                "listen": {
                    "api": f"127.0.0.1:{self.ports.api}",
                    "status": f"127.0.0.1:{self.ports.status}",
                },
                **extra,
            },
        )

    def _write_agent_config(self, extra: Mapping[str, Any]) -> Path:
        data = self.directory / "agent"
        data.mkdir(mode=0o755)
        return _write_toml(
            self.directory / "agent.toml",
            {
                "name": AGENT_NAME,
                "data_dir": str(data / "state"),
                "join_token_file": str(data / "join-token"),
                "server": {
                    "api": f"127.0.0.1:{self.ports.api}",
                },
                "trust_bundle_file": str(self.credential / "bundle.pem"),
                "socket": {"path": str(self.socket)},
                **extra,
            },
        )


def _port_of(flag: str) -> int:
    return int(flag.partition("=")[0].rpartition(":")[2])


def _write_toml(path: Path, tables: Mapping[str, Any]) -> Path:
    plain = {key: value for key, value in tables.items() if not isinstance(value, Mapping)}
    lines = [f"{key} = {_toml(value)}" for key, value in plain.items()]
    for name, table in tables.items():
        if isinstance(table, Mapping):
            lines += [
                f"[{name}]",
                *(f"{key} = {_toml(value)}" for key, value in table.items()),
            ]
    path.write_text("\n".join(lines) + "\n")
    return path


def _toml(value: Any) -> str:
    """Write a value in one line; TOML's strings and numbers are JSON's, its tables are not."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key} = {_toml(each)}' for key, each in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value)
