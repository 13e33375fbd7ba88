"""Runs one Envoy: starts it, restarts it when it dies, drains and stops it."""

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

from legation.envoy.bootstrap import bootstrap
from legation.envoy.listeners import inbound_name, outbound_name, stat_name
from legation.envoy.spec import ProxySpec
from legation.errors import InvalidInput, LegationError, TimedOut, Unavailable
from legation.proxy.admin import Admin

_PR_SET_PDEATHSIG = 1
_MAX_SOCKET_PATH = 107  # sun_path of unix(7), without its final zero
_BACK_OFF_FIRST_S, _BACK_OFF_MAX_S = 0.2, 10.0
# An Envoy that lived this long was healthy; the next failure starts the back-off anew.
_HEALTHY_S = 30.0
_STARTS_BEFORE_GIVING_UP = 3
_POLL_S = 0.02
_END_S = 2.5
# Not in the bootstrap: Envoy writes its first lines before it reads that.
_JSON_LINE = '{"time":"%Y-%m-%dT%T.%e%z","level":"%l","logger":"%n","message":"%j"}'
_REQUESTS = ("http.inbound", "http.outbound")

_log = logging.getLogger(__name__)


class ProxySupervisor:
    """One supervised Envoy.

    Args:
        spec: what the proxy is for.
        agent_socket: the Unix socket of the agent that drives it.
        runtime_dir: a directory of its own; made with mode 0700.
        envoy: the executable, see `find_envoy`.
        concurrency: worker threads.
        drain_time_s: how long connections that must go may still finish.
        log_level: of Envoy's own log, for example ``warning``.
        log: where Envoy's output goes; None for our own standard error.
        json_log: log as JSON objects.
    """

    def __init__(
        self,
        spec: ProxySpec,
        *,
        agent_socket: Path,
        runtime_dir: Path,
        envoy: Path,
        concurrency: int = 2,
        drain_time_s: int = 5,
        log_level: str = "warning",
        log: Path | None = None,
        json_log: bool = False,
    ) -> None:
        self.spec = spec
        self.admin_socket = runtime_dir / "admin.sock"
        self.admin = Admin(self.admin_socket)
        self._config = runtime_dir / "bootstrap.json"
        self._runtime_dir = runtime_dir
        self._log = log
        self._drain_time_s = drain_time_s
        self._bootstrap = bootstrap(
            spec,
            agent_socket=str(agent_socket.absolute()),
            admin_socket=str(self.admin_socket.absolute()),
        )
        self._argv = [
            str(envoy),
            "--config-path",
            str(self._config),
            "--disable-hot-restart",
            "--concurrency",
            str(concurrency),
            "--drain-time-s",
            str(drain_time_s),
            "--drain-strategy",
            "immediate",
            "--log-level",
            log_level,
            *(("--log-format", _JSON_LINE) if json_log else ()),
        ]
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = False
        self._was_ready = False
        self._starts = 0

    @property
    def pid(self) -> int | None:
        """The process id of the running Envoy, or None."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if self._process is not None and running else None

    @property
    def restarts(self) -> int:
        """How often Envoy was started again."""
        return max(0, self._starts - 1)

    async def start(self) -> None:
        """Start Envoy and keep it running.

        Raises:
            InvalidInput: the runtime directory's path is too long for a socket in it.
            Unavailable: the runtime directory or the executable cannot be used.
        """
        if len(os.fsencode(self.admin_socket.absolute())) > _MAX_SOCKET_PATH:
            raise InvalidInput(
                f"{self.admin_socket} is too long for a socket", remedy="use a shorter directory"
            )
        try:
            self._write_bootstrap()
        except OSError as error:
            raise Unavailable(f"{self._runtime_dir} cannot be used: {error.strerror}") from None
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep(), name=f"proxy {self.spec.name}")

    async def wait_ready(self, timeout_s: float = 30.0) -> None:
        """Wait until every listener accepts connections.

        Raises:
            Unavailable: Envoy ends again and again, or was never started.
            TimedOut: it runs, but did not become ready in time.
        """
        wanted = frozenset(map(inbound_name, self.spec.inbound)) | frozenset(
            map(outbound_name, self.spec.outbound)
        )
        try:
            async with asyncio.timeout(timeout_s):
                while not await self._serves(wanted):
                    self._check_alive()
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise TimedOut(
                f"proxy {self.spec.name} was not ready within {timeout_s:g} s",
                remedy="see whether the agent knows an entry for it: `legation status`",
            ) from None
        self._was_ready = True

    async def wait(self) -> int:
        """Wait until Envoy is stopped, or given up; return the exit status for our process.

        0 after `stop`; else what Envoy ended with, as a shell would say it.
        """
        if self._keeper is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(self._keeper)
        if self._stopping or self._process is None:
            return 0
        status = self._process.returncode or 0
        return 128 - status if status < 0 else status

    async def stop(self, *, grace_s: float | None = None) -> None:
        """Stop taking connections, let requests finish, and end Envoy.

        Args:
            grace_s: how long requests and TCP connections may still take; the drain time if
                None. Envoy is gone no later than five seconds after that.
        """
        self._stopping = True
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        if self.pid is not None:
            await self._drain(self._drain_time_s if grace_s is None else grace_s)
            await self._end()
        self._config.unlink(missing_ok=True)
        self.admin_socket.unlink(missing_ok=True)

    def _write_bootstrap(self) -> None:
        self._runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._runtime_dir.chmod(0o700)
        draft = self._config.with_suffix(".new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open(draft, flags, 0o600), "w") as file:
            json.dump(self._bootstrap, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._config)

    async def _spawn(self) -> None:
        self.admin_socket.unlink(missing_ok=True)
        with contextlib.ExitStack() as stack:
            output = None if self._log is None else stack.enter_context(self._log.open("ab"))
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *self._argv,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env={},  # nothing of ours is Envoy's business
                    # Ctrl-C in a terminal reaches us only, and we drain first.
                    start_new_session=True,
                    preexec_fn=_die_with_parent(os.getpid()),
                )
            except OSError as error:
                raise Unavailable(f"{self._argv[0]} cannot be run: {error.strerror}") from None
        self._starts += 1

    async def _keep(self) -> None:
        """Start Envoy again whenever it ends, later each time."""
        pause = _BACK_OFF_FIRST_S
        clock = asyncio.get_running_loop().time
        while self._process is not None:
            began = clock()
            status = await self._process.wait()
            if not self._was_ready and self._starts >= _STARTS_BEFORE_GIVING_UP:
                _log.error("proxy %s ended with status %d, given up", self.spec.name, status)
                return
            pause = _BACK_OFF_FIRST_S if clock() - began > _HEALTHY_S else pause
            _log.error(
                "proxy %s ended with status %d, starts again in %g s",
                self.spec.name,
                status,
                pause,
            )
            await asyncio.sleep(pause)
            pause = min(2 * pause, _BACK_OFF_MAX_S)
            await self._spawn()

    def _check_alive(self) -> None:
        if self._keeper is None or self._keeper.done():
            status = None if self._process is None else self._process.returncode
            raise Unavailable(
                f"proxy {self.spec.name} does not run (status {status})",
                remedy=f"read {self._log}" if self._log else "read the lines that Envoy wrote",
            )

    async def _serves(self, wanted: frozenset[str]) -> bool:
        try:
            return await self.admin.ready() and wanted <= await self.admin.listeners()
        except LegationError:
            return False

    async def _drain(self, grace_s: float) -> None:
        """Let open connections finish for at most `grace_s`."""
        with contextlib.suppress(LegationError, TimeoutError):
            async with asyncio.timeout(grace_s):
                await self.admin.post("/drain_listeners?graceful&skip_exit")
                while await self._busy():  # noqa: ASYNC110 - Envoy has no event for it
                    await asyncio.sleep(_POLL_S)

    async def _end(self) -> None:
        if self._process is None:
            return
        for end in (self._process.terminate, self._process.kill):
            with contextlib.suppress(ProcessLookupError):
                end()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_END_S):
                    await self._process.wait()
                return

    async def _busy(self) -> bool:
        """Tell whether an HTTP request or a TCP connection is still being served."""
        active = await self.admin.stats(r"downstream_(rq|cx)_active$")
        names = [f"listener.{name}.downstream_cx_active" for name in self._tcp_listeners()]
        requests = (
            count for name, count in active.items() if name.startswith(_REQUESTS) and "_rq_" in name
        )
        return any(requests) or any(active.get(name, 0) for name in names)

    def _tcp_listeners(self) -> list[str]:
        """Return how Envoy's statistics call the listeners for TCP."""
        inbound = [inbound_name(i) for i in self.spec.inbound if i.protocol.is_tcp]
        outbound = [outbound_name(o) for o in self.spec.outbound if o.protocol.is_tcp]
        return [stat_name(name) for name in inbound + outbound]


def _die_with_parent(parent: int) -> Callable[[], None]:
    """Return what the child runs before it becomes Envoy: it must not outlive us."""
    libc = ctypes.CDLL(None)

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # we died before prctl took hold
            os._exit(1)

    return prepare
