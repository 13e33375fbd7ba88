"""An agent of this process's own, for jobs on machines that have none.

It is the agent that a node has, in a thread, for as long as one program runs. What it has to
keep, its key and the feed, is in a private directory in memory that goes with it; so is its
socket, which nobody but this user can reach.
"""

import asyncio
import contextlib
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from legation.agent.wiring import Agent, AgentSettings
from legation.cli.configured import Flags, read_config
from legation.cli.identity_files import directory_in_memory
from legation.cli.run_agent import settings_of
from legation.config import AgentConfig
from legation.errors import LegationError

_STOP_WITHIN_S = 10.0


class OwnAgent:
    """Runs from `__enter__`, which enrols it, to `__exit__`, which leaves nothing behind.

    Args:
        flags: of the command line, by key of the agent's configuration.
    """

    def __init__(self, flags: Flags) -> None:
        self._flags = flags
        self._directory: Path | None = None
        self._running = threading.Event()
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._agent: Agent | None = None
        self._thread = threading.Thread(target=self._run, name="agent", daemon=True)

    @property
    def socket(self) -> Path:
        """Its socket."""
        assert self._directory is not None  # noqa: S101 - inside the `with`
        return self._directory / "agent.sock"

    def explained(self, error: LegationError) -> LegationError:
        """Return `error`, that no identity came, with what the agent knows about it."""
        if self._agent is None:
            return error
        name, problem = self._agent.own.identity.spiffe_id, self._agent.sync.problem
        if problem is not None:
            return type(error)(f"{error.message}; {problem.message}", remedy=problem.remedy)
        remedy = f"have an entry that {name} may serve: `legation entry create --agent …`"
        return type(error)(error.message, remedy=remedy)

    def __enter__(self) -> Self:
        """Enrol, and serve.

        Raises:
            LegationError: the configuration, the evidence or the authority says no.
        """
        self._directory = directory_in_memory("legation-agent-")
        try:
            self._thread.start()
            self._running.wait()
            if self._error is not None:
                raise self._error
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        loop, stop = self._loop, self._stop
        if loop is not None and stop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                loop.call_soon_threadsafe(stop.set)
        self._thread.join(_STOP_WITHIN_S)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._error = error
        finally:
            self._running.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._agent = await Agent.open(self._settings())
        async with self._agent:
            self._running.set()
            await self._stop.wait()

    def _settings(self) -> AgentSettings:
        assert self._directory is not None  # noqa: S101 - made by `__enter__`
        places: Mapping[str, object] = {
            "data_dir": str(self._directory),
            "socket.path": str(self.socket),
            "socket.mode": "0600",
        }
        return settings_of(read_config(AgentConfig, None, {**self._flags, **places}))


def agent_flags(
    *,
    authority: str | None,
    trust_bundle: Path | None,
    ca_fingerprint: str | None,
    join_token_file: Path | None,
    oidc_audience: str | None,
    oidc_token_variable: str | None,
    oidc_token_file: Path | None,
) -> Flags:
    """Return the agent's configuration that these options stand for; those not given are None."""
    oidc = oidc_audience or oidc_token_variable or oidc_token_file
    github = oidc_audience and not oidc_token_variable and not oidc_token_file
    return {
        "server.api": authority,
        "trust_bundle_file": trust_bundle and str(trust_bundle),
        "ca_fingerprint": ca_fingerprint,
        "join_token_file": join_token_file and str(join_token_file),
        "enrolment.kind": "oidc" if oidc else None,
        "enrolment.github": True if github else None,
        "enrolment.audience": oidc_audience,
        "enrolment.token_variable": oidc_token_variable,
        "enrolment.token_file": oidc_token_file and str(oidc_token_file),
    }
