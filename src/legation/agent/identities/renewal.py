"""Renews the agent's own identity."""

import asyncio
import logging
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol

from legation.agent.identities.proof import prove
from legation.agent.identities.schedule import DEFAULT_TIMING, RenewalTiming, plan_renewal
from legation.agent.identity import AgentIdentity
from legation.clock import Clock
from legation.errors import InternalError, LegationError, NotAuthenticated
from legation.pki import TrustBundle, build_request, generate_key

_LONGEST_NAP_S = 15.0
# An agent that cannot speak with its authority is worth asking for more often than a tenth of
# a day.
_LONGEST_RETRY = timedelta(minutes=5)
_REMEDY = (
    "enrol it again: `legation token create NAME`, "
    "then `legation agent enrol --again --join-token-file FILE` here"
)

_log = logging.getLogger(__name__)

Certified = tuple[tuple[bytes, ...], tuple[bytes, ...]]


class AgentCertifier(Protocol):
    """Certifies new keys for the calling agent."""

    async def renew_agent(self, csr: bytes) -> Certified:
        """Return the chain in DER, leaf first, and the feed keys."""
        ...

    async def renew_expired(self, identity: AgentIdentity, csr: bytes) -> Certified:
        """Do so for an identity that is over, by the proof of its key.

        Raises:
            NotPermitted: the authority does not allow that, or not any more.
        """
        ...


class OwnRenewal:
    """Keeps the agent's own certificate young.

    Args:
        identity: the one to begin with.
        certifier: who certifies the next.
        bundle: returns the trust bundle that it must chain to.
        renewed: called with the new identity and the feed keys; puts both to use, durably.
        on_disk: returns the identity on the disk, which an operator may have replaced.

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
        on_disk: Callable[[], AgentIdentity] | None = None,
    ) -> None:
        self.identity = identity
        self.problem: LegationError | None = None
        self._certifier = certifier
        self._bundle = bundle
        self._renewed = renewed
        self._clock = clock
        self._timing = timing
        self._on_disk = on_disk
        self._wake = asyncio.Event()
        self._at_once = False
        self._order = 0
        self._ordered_at: datetime | None = None

    @property
    def has_to_rotate(self) -> bool:
        """Whether an operator's order is still to be carried out."""
        return self._ordered_at is not None

    def renew_now(self) -> None:
        """Renew at once."""
        self._at_once = True
        self._wake.set()

    def rotate_within(self, order: int, spread_s: float, *, before: datetime) -> None:
        """Renew within `spread_s` seconds if the certificate is from before that moment.

        Args:
            order: number of the order; one that is not newer than the last changes nothing.
            spread_s: how long it may take.
            before: by the authority's clock.
        """
        if order <= self._order:
            return
        self._order = order
        # It begins somewhat before it was issued. After a restart within that time the order
        # may be carried out twice.
        if self.identity.not_before < before:
            self._ordered_at = self._clock.now() + timedelta(seconds=spread_s * _share())
            self._wake.set()

    async def run(self) -> None:
        """Renew in time until cancelled."""
        failures = 0
        while True:
            await self._wait_until_due(failures)
            order = self._order
            try:
                await self._renew()
            except Exception as error:
                failures += 1
                self._failed(error)
            else:
                failures, self.problem = 0, None
                if order == self._order:
                    self._ordered_at = None

    async def _wait_until_due(self, failures: int) -> None:
        now = self._clock.now()
        planned = plan_renewal(
            self.identity.not_before,
            self.identity.not_after,
            now=now,
            failures=failures,
            jitter=_share(),
            timing=self._timing,
        ).moment
        if failures:
            planned = min(planned, now + _LONGEST_RETRY)
        while not self._at_once:
            # A failure is not made good by trying at once what was ordered long ago.
            ordered = None if failures else self._ordered_at
            due = planned if ordered is None else min(planned, ordered)
            if (pause := (due - self._clock.now()).total_seconds()) <= 0:
                break
            try:
                # In short naps: the machine may sleep, and its clock may be set.
                async with asyncio.timeout(min(pause, _LONGEST_NAP_S)):
                    await self._wake.wait()
            except TimeoutError:
                continue
            self._wake.clear()
        self._at_once = False

    async def _renew(self) -> None:
        if self._is_over and self._adopted():
            return
        key = generate_key()
        spiffe_id = self.identity.spiffe_id
        csr = build_request(key, spiffe_id=spiffe_id)
        if self._is_over:
            chain, feed_keys = await self._certifier.renew_expired(self.identity, csr)
        else:
            chain, feed_keys = await self._certifier.renew_agent(csr)
        bundle, at = self._bundle(), self._clock.now()
        certificates = await asyncio.to_thread(
            lambda: prove(chain, key, expected=spiffe_id, bundle=bundle, at=at, dns_names=())
        )
        identity = AgentIdentity.of(certificates, key)
        self._renewed(identity, feed_keys)
        self.identity = identity
        _log.info("the agent's own certificate was renewed, until %s", identity.not_after)

    @property
    def _is_over(self) -> bool:
        return self._clock.now() >= self.identity.not_after

    def _adopted(self) -> bool:
        """Go over to the identity on the disk if an operator has put a good one there."""
        if self._on_disk is None:
            return False
        try:
            found = self._on_disk()
        except LegationError as error:
            _log.warning("the identity on the disk is of no use: %s", error)
            return False
        same = found.spiffe_id == self.identity.spiffe_id
        if not same or self._clock.now() >= found.not_after:
            return False
        self._renewed(found, ())
        self.identity = found
        _log.info("the agent was enrolled again, its certificate lasts until %s", found.not_after)
        return True

    def _failed(self, error: Exception) -> None:
        if not isinstance(error, LegationError):
            _log.error("renewing the agent's own certificate failed", exc_info=error)
            error = InternalError(f"renewing failed: {type(error).__name__}")
        if self._is_over:
            error = NotAuthenticated(
                f"the agent's own certificate has expired, and is not renewed: {error.message}",
                remedy=_REMEDY,
            )
        self.problem = error
        _log.warning("the agent's own certificate is not renewed: %s", error)


def _share() -> float:
    return random.random()  # noqa: S311 - spreads load, keeps no secret
