"""Renews the agent's own identity."""

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Protocol

from legation.agent.identity import AgentIdentity
from legation.agent.proof import prove
from legation.agent.schedule import DEFAULT_TIMING, RenewalTiming, next_renewal
from legation.clock import Clock
from legation.errors import InternalError, LegationError, NotAuthenticated
from legation.pki import TrustBundle, build_request, generate_key

_LONGEST_NAP_S = 15.0

_log = logging.getLogger(__name__)


class AgentCertifier(Protocol):
    """Certifies new keys for the calling agent."""

    async def renew_agent(self, csr: bytes) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """Return the chain in DER, leaf first, and the feed keys, raw Ed25519."""
        ...


class OwnRenewal:
    """Keeps the agent's own certificate young.

    Args:
        identity: the one to begin with.
        certifier: who certifies the next.
        bundle: returns the trust bundle that it must chain to.
        renewed: called with the new identity and the feed keys; puts both to use, durably.

    Attributes:
        identity: the current one.
        problem: why the last attempt failed, or None.
    """

    def __init__(
        self,
        identity: AgentIdentity,
        *,
        certifier: AgentCertifier,
        bundle: Callable[[], TrustBundle],
        renewed: Callable[[AgentIdentity, tuple[bytes, ...]], None],
        clock: Clock,
        timing: RenewalTiming = DEFAULT_TIMING,
    ) -> None:
        self.identity = identity
        self.problem: LegationError | None = None
        self._certifier = certifier
        self._bundle = bundle
        self._renewed = renewed
        self._clock = clock
        self._timing = timing
        self._wanted = asyncio.Event()

    def renew_now(self) -> None:
        """Renew at once."""
        self._wanted.set()

    async def run(self) -> None:
        """Renew in time until cancelled."""
        failures = 0
        while True:
            await self._wait_until_due(failures)
            try:
                await self._renew()
            except Exception as error:
                failures += 1
                self._failed(error)
            else:
                failures, self.problem = 0, None

    async def _wait_until_due(self, failures: int) -> None:
        due = next_renewal(
            self.identity.not_before,
            self.identity.not_after,
            now=self._clock.now(),
            failures=failures,
            jitter=random.random(),  # noqa: S311 - spreads load, keeps no secret
            renew_at_remaining=self._timing.renew_at_remaining,
            spread=self._timing.spread,
        )
        while (pause := (due - self._clock.now()).total_seconds()) > 0:
            try:
                # In short naps: the machine may sleep, and its clock may be set.
                async with asyncio.timeout(min(pause, _LONGEST_NAP_S)):
                    await self._wanted.wait()
            except TimeoutError:
                continue
            break
        self._wanted.clear()

    async def _renew(self) -> None:
        key = generate_key()
        spiffe_id = self.identity.spiffe_id
        chain, feed_keys = await self._certifier.renew_agent(
            build_request(key, spiffe_id=spiffe_id)
        )
        bundle, at = self._bundle(), self._clock.now()
        certificates = await asyncio.to_thread(
            lambda: prove(chain, key, expected=spiffe_id, bundle=bundle, at=at)
        )
        identity = AgentIdentity.of(certificates, key)
        self._renewed(identity, feed_keys)
        self.identity = identity
        _log.info("the agent's own certificate was renewed, until %s", identity.not_after)

    def _failed(self, error: Exception) -> None:
        if not isinstance(error, LegationError):
            _log.error("renewing the agent's own certificate failed", exc_info=error)
            error = InternalError(f"renewing failed: {type(error).__name__}")
        if self._clock.now() >= self.identity.not_after:
            error = NotAuthenticated(
                "the agent's own certificate has expired",
                remedy="enrol it again: `legation token create`, then start the agent with it",
            )
        self.problem = error
        _log.warning("the agent's own certificate is not renewed: %s", error)
