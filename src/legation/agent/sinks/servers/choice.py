"""From a sink's configuration to its server."""

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from legation.agent.sinks.commands import request, run, send_signal
from legation.agent.sinks.servers.haproxy import HAProxy
from legation.agent.sinks.servers.nginx import Nginx
from legation.agent.sinks.servers.postgresql import PostgreSQL
from legation.agent.sinks.servers.redis import Redis
from legation.agent.sinks.servers.server import Server, SimpleServer
from legation.config.sinks import (
    ReloadByCommand,
    ReloadByHTTP,
    ReloadBySignal,
    ReloadHAProxy,
    ReloadNginx,
    ReloadPostgreSQL,
    ReloadRedis,
    Sink,
)

_MAX_ANSWER = 1 << 16
_POSTMASTER = "postmaster.pid"


def server_of(sink: Sink) -> Server:
    """Return the server that the sink names."""
    timeout_s = sink.command_timeout.total_seconds()
    match sink.reload:
        case ReloadNginx() as nginx:
            return Nginx(pid_file=nginx.pid_file, timeout_s=timeout_s)
        case ReloadHAProxy() as haproxy:
            return HAProxy(haproxy, sink.files, timeout_s=timeout_s)
        case ReloadPostgreSQL(sessions=sessions) as postgresql if sessions is not None:
            return PostgreSQL(
                postmaster=postgresql.data_directory / _POSTMASTER,
                sessions=sessions,
                timeout_s=timeout_s,
            )
        case ReloadRedis() as redis:
            return Redis(
                socket=redis.socket,
                password_file=redis.password_file,
                files=sink.files,
                timeout_s=timeout_s,
            )
        case _:
            return _simple(sink, timeout_s)


def _simple(sink: Sink, timeout_s: float) -> Server:
    match sink.reload:
        case ReloadPostgreSQL(data_directory=directory):
            return SimpleServer(tell=_signalled(directory / _POSTMASTER, "HUP"))
        case ReloadBySignal(pid_file=pid_file, signal=name):
            return SimpleServer(tell=_signalled(pid_file, name))
        case ReloadByCommand(command=command):
            return SimpleServer(tell=partial(run, command, timeout_s=timeout_s))
        case ReloadByHTTP(method=method, url=url):
            ask = partial(request, method, url, limit=_MAX_ANSWER, timeout_s=timeout_s)
            return SimpleServer(tell=ask)
        case _:
            return SimpleServer(tell=_nothing)


def _signalled(pid_file: Path, name: str) -> Callable[[], Awaitable[None]]:
    async def tell() -> None:
        send_signal(pid_file, name)

    return tell


async def _nothing() -> None:
    return
