"""Everything a source knows now, and the answers that follow from it.

One thread writes (`Machine`, or the reader of files); any number of others ask, without a
lock: what they look at is replaced, or is safe to look at while it grows.
"""

from collections.abc import Mapping
from enum import StrEnum

from cryptography import x509

from legation.causes import Cause, Failure
from legation.clock import Clock, to_rfc3339
from legation.errors import LegationError, Unavailable, VerificationError
from legation.pki.bundle import TrustBundle
from legation.pki.spiffe_id import SpiffeID, TrustDomain
from legation.sdk.enforcement import Enforcement
from legation.sdk.model import X509SVID, Aspect, Change, TrustView
from legation.sdk.revocation_lists import RevocationLists


class RevocationData(StrEnum):
    """Where the answer to "is it revoked?" comes from."""

    NONE_YET = "none yet"  # so everybody is refused
    LIVE = "live"  # the agent's EnforcementService
    LISTS = "lists"  # the revocation lists of the view, if there are any


class Knowledge:
    """What a source knows.

    Attributes:
        clock: tells what has expired.
        enforcement: what the agent says live.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.enforcement = Enforcement()
        self._revocation_data = RevocationData.NONE_YET
        self._view: TrustView | None = None
        self._generation = 0
        self._absence: LegationError = Unavailable(
            "no identity has come from the Workload API yet",
            remedy="call wait_ready() first; `legation status` on the node says what is missing",
        )
        self._lists = RevocationLists(())

    @property
    def revocation_data(self) -> RevocationData:
        """Which of both kinds counts."""
        return self._revocation_data

    @revocation_data.setter
    def revocation_data(self, counts: RevocationData) -> None:
        if counts is RevocationData.LISTS:
            # Before anyone is judged by them.
            self._read_lists(() if self._view is None else self._view.crls)
        self._revocation_data = counts

    @property
    def held(self) -> TrustView | None:
        """The newest view, expired or not, or None."""
        return self._view

    @property
    def ready(self) -> bool:
        """Whether there is a view, and something to say who is revoked."""
        return self._view is not None and self.revocation_data is not RevocationData.NONE_YET

    @property
    def absence(self) -> LegationError:
        """Why there is no view."""
        error = self._absence
        return type(error)(error.message, remedy=error.remedy)

    def view(self) -> TrustView:
        """Return the view, as `Source.view`."""
        view = self._view
        if view is None:
            raise self.absence
        if view.svids and view.svids[0].not_after <= self.clock.now():
            svid = view.svids[0]
            raise VerificationError(
                [
                    Failure(
                        cause=Cause.CERTIFICATE_EXPIRED,
                        detail=f"this process's own certificate for {svid.spiffe_id}, serial "
                        f"{svid.serial:x}, ended at {to_rfc3339(svid.not_after)}",
                    )
                ]
            )
        return view

    def refusal(
        self, *, serial: int, spiffe_id: SpiffeID, issuer: x509.Certificate | None = None
    ) -> Cause | None:
        """Return why a peer is refused, as `Source.refusal`."""
        # What was once known to be revoked stays so, even if the agent that said it is gone.
        cause = self.enforcement.refusal(serial, spiffe_id)
        if cause is None and issuer is not None:
            # An issuer that is revoked takes with it what it has signed, known or not.
            cause = self.enforcement.refusal(issuer.serial_number, spiffe_id)
        if cause is not None:
            return cause
        match self.revocation_data:
            case RevocationData.LIVE:
                return Cause.REVOCATION_DATA_STALE if self.refuses_as_stale else None
            case RevocationData.LISTS:
                return self._lists.refusal(serial=serial, issuer=issuer, at=self.clock.now())
            case RevocationData.NONE_YET:
                return Cause.REVOCATION_DATA_MISSING

    def staple(self, svid: X509SVID) -> bytes | None:
        """Return what to staple to an own certificate, as `Stapling.staple`."""
        if self.enforcement.refusal(svid.serial, svid.spiffe_id) is not None:
            return None
        return self.enforcement.staples.staple(svid.serial, at=self.clock.now())

    def check_staples(self) -> None:
        """Check what came to be stapled to the certificates of the view."""
        if self._view is not None:
            self.enforcement.staples.check(self._view.svids, at=self.clock.now())

    @property
    def refuses_as_stale(self) -> bool:
        """Whether live data is older than it may be, and new peers are refused for it."""
        freshness = self.enforcement.freshness
        return (
            self.revocation_data is RevocationData.LIVE
            and freshness.refuse
            and freshness.is_stale(self.clock)
        )

    def show(
        self,
        svids: tuple[X509SVID, ...],
        bundles: Mapping[TrustDomain, TrustBundle],
        crls: tuple[bytes, ...],
    ) -> Change:
        """Make these the view, unless they are already; return what differs."""
        before = self._view
        changed = set()
        if before is None or before.svids != svids:
            changed.add(Aspect.IDENTITY)
        if before is None or before.bundles != bundles:
            changed.add(Aspect.BUNDLES)
        if before is None or before.crls != crls:
            changed.add(Aspect.REVOCATIONS)
            # Where the agent tells revocations live, a list of all of them is not read with
            # each of them.
            if self._revocation_data is RevocationData.LISTS:
                self._read_lists(crls)
        if Aspect.IDENTITY in changed:
            self.enforcement.staples.check(svids, at=self.clock.now())
        if changed:
            self._generation += 1
            self._view = TrustView(
                svids=svids, bundles=bundles, crls=crls, generation=self._generation
            )
        return frozenset(changed)

    def _read_lists(self, crls: tuple[bytes, ...]) -> None:
        if crls != self._lists.ders:
            self._lists = RevocationLists(crls, before=self._lists)

    def withdraw(self, why: LegationError) -> Change:
        """Have no view any more; return what differs."""
        had, self._view, self._absence = self._view is not None, None, why
        return frozenset({Aspect.IDENTITY, Aspect.BUNDLES}) if had else frozenset()

    def abandon(self, why: LegationError) -> None:
        """Know nothing any more, and refuse everybody."""
        self.withdraw(why)
        self.revocation_data = RevocationData.NONE_YET
