"""Takes the steps of a delivery: `plan` says which, the disk and the server say how it went."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from legation.agent.identities.probe import StartTLS, served_chain
from legation.agent.private_files import read_bounded
from legation.agent.sinks.commands import run
from legation.agent.sinks.contents import render
from legation.agent.sinks.generations import Generations
from legation.agent.sinks.model import Generation, Material, digest_of_chain
from legation.agent.sinks.plan import Outcome, Plan, Step
from legation.agent.sinks.servers import Server
from legation.config.sinks import Sink, SinkProbe
from legation.errors import InternalError, LegationError, TimedOut
from legation.pki import certificate_from_der

_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.5
_MAX_PASSWORD = 4096

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a delivery ended.

    Attributes:
        outcome: how.
        in_force: serial that the server is known to use: as seen, or as told when nobody
            looks; None when that is not known.
        generation: what was delivered, if it is in force.
        failed_at: the first step that failed.
        problem: why.
    """

    outcome: Outcome
    in_force: int | None
    generation: Generation | None = None
    failed_at: Step | None = None
    problem: str | None = None


class Lookout:
    """Looks from outside at what a server presents."""

    def __init__(self, probe: SinkProbe) -> None:
        self._probe = probe

    async def serial_and_digest(self) -> tuple[int, str]:
        """Return the leaf's serial and the digest of the chain.

        Raises:
            Unavailable, TimedOut: it presents none.
        """
        chain = await served_chain(
            self._probe.address.host,
            self._probe.address.port,
            starttls=StartTLS(self._probe.starttls) if self._probe.starttls else None,
            server_name=self._probe.server_name,
            timeout_s=self._probe.timeout.total_seconds(),
        )
        return certificate_from_der(chain[0]).serial_number, digest_of_chain(chain)

    async def until_serves(self, wanted: Generation, seen: Callable[[int], None]) -> None:
        """Return when the server presents `wanted`; tell `seen` of every serial on the way.

        Raises:
            TimedOut: it did not in time; the message says what it did instead.
        """
        said, pause_s = "nothing", _FIRST_PAUSE_S
        try:
            async with asyncio.timeout(self._probe.timeout.total_seconds()):
                while True:
                    try:
                        serial, digest = await self.serial_and_digest()
                    except LegationError as error:
                        said = error.message
                    else:
                        seen(serial)
                        if digest == wanted.served:
                            return
                        said = f"it serves {serial:x}, or with another chain"
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        except TimeoutError:
            within = f"{self._probe.timeout / timedelta(seconds=1):g} s"
            raise TimedOut(
                f"{self._probe.address} does not serve {wanted.serial:x} after {within}: {said}"
            ) from None


class Delivery:
    """Delivers one generation.

    Args:
        sink: where to.
        generations: of the sink.
        server: of the sink.
        previous: what is in force, or None.
        fallback: whether `previous` is still valid.
    """

    def __init__(
        self,
        sink: Sink,
        generations: Generations,
        server: Server,
        *,
        previous: Generation | None,
        fallback: bool,
    ) -> None:
        self._sink = sink
        self._generations = generations
        self._server = server
        self._previous = previous if fallback else None
        self._lookout = None if sink.probe is None else Lookout(sink.probe)
        self._seen: int | None = None
        self._steps: Mapping[Step, Callable[[Material, Generation], Awaitable[None]]] = {
            Step.WRITE: self._write,
            Step.SWITCH: self._switch,
            Step.CHECK: self._check,
            Step.RELOAD: self._reload,
            Step.PROBE: self._look,
            Step.SWITCH_BACK: self._switch_back,
            Step.RELOAD_BACK: self._reload,
            Step.PROBE_BACK: self._look_back,
        }

    async def run(self, material: Material) -> Result:
        """Take every step; this never raises for what a step raises."""
        number = await asyncio.to_thread(self._generations.next_number)
        new = Generation.of(material, number)
        plan = Plan(fallback=self._previous is not None, observed=self._lookout is not None)
        problem: str | None = None
        while plan.step is not None:
            try:
                await self._steps[plan.step](material, new)
            except LegationError as error:
                problem = problem or f"{plan.step}: {error}"
                plan = plan.failed()
            except Exception as error:
                _log.exception("sink %s: %s failed", self._sink.name, plan.step)
                problem = problem or str(InternalError(f"{plan.step}: {type(error).__name__}"))
                plan = plan.failed()
            else:
                plan = plan.succeeded()
        assert plan.outcome is not None  # noqa: S101 - the loop's condition
        if plan.outcome is Outcome.FAILED:
            await self._see()
        return self._result(plan, plan.outcome, new, problem)

    def _result(self, plan: Plan, outcome: Outcome, new: Generation, problem: str | None) -> Result:
        used: Generation | None = None
        if outcome in {Outcome.CONFIRMED, Outcome.DELIVERED}:
            used = new
        elif outcome is Outcome.ROLLED_BACK:
            used = self._previous
        return Result(
            outcome=outcome,
            in_force=used.serial if used else self._seen,
            generation=used,
            failed_at=plan.failed_at,
            problem=problem,
        )

    async def _write(self, material: Material, new: Generation) -> None:
        password: bytes | None = None
        if self._sink.files.pkcs12_password_file is not None:
            content = read_bounded(self._sink.files.pkcs12_password_file, limit=_MAX_PASSWORD)
            password = content.split(b"\n")[0].rstrip(b"\r")
        contents = render(self._sink.files, material, password=password)
        await asyncio.to_thread(self._generations.write, new, contents)

    async def _switch(self, _: Material, new: Generation) -> None:
        await asyncio.to_thread(self._generations.switch, new.number)

    async def _check(self, _: Material, __: Generation) -> None:
        if self._sink.check:
            timeout_s = self._sink.command_timeout.total_seconds()
            await run(self._sink.check, timeout_s=timeout_s)

    async def _reload(self, _: Material, __: Generation) -> None:
        await self._server.load(self._generations.current_path)

    async def _look(self, _: Material, new: Generation) -> None:
        await self._until_serves(new)

    async def _switch_back(self, _: Material, __: Generation) -> None:
        if self._previous is not None:
            await asyncio.to_thread(self._generations.switch, self._previous.number)

    async def _look_back(self, _: Material, __: Generation) -> None:
        if self._previous is not None:
            await self._until_serves(self._previous)

    async def _until_serves(self, wanted: Generation) -> None:
        if self._lookout is not None:
            await self._lookout.until_serves(wanted, self._saw)

    async def _see(self) -> None:
        """Find out what is served when it is not known."""
        self._seen = None
        if self._lookout is not None:
            with contextlib.suppress(LegationError):
                self._seen, _ = await self._lookout.serial_and_digest()

    def _saw(self, serial: int) -> None:
        self._seen = serial
