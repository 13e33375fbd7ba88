"""A trust domain in memory and a source that follows it, for tests of the SDK's TLS."""

import threading
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from legation.causes import Cause
from legation.errors import LegationError
from legation.pki import SpiffeID, TrustBundle, TrustDomain
from legation.policy import Decision, PolicyMatcher, Request
from legation.sdk.model import X509SVID, Aspect, Change, Refusal, TrustView
from tests.support.pki import CA, LEAF, Made, make

EXAMPLE = TrustDomain("example.org")
HOUR = timedelta(hours=1)


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


class Authority:
    """A CA of one trust domain: a root and the intermediate that issues."""

    def __init__(self, domain: TrustDomain = EXAMPLE, *, begin: datetime | None = None) -> None:
        self.domain = domain
        begin = begin or now() - HOUR
        span: dict[str, Any] = {"not_before": begin, "not_after": begin + 1000 * HOUR}
        self.root = make(CA, subject=f"Root of {domain}", **span)
        self.issuing = make(CA, self.root, subject=f"Issuer of {domain}", **span)

    def issue(self, path: str, **changes: Any) -> X509SVID:
        """Issue an SVID for one hour; `changes` as for `tests.support.pki.make`."""
        made = self.certificate(f"spiffe://{self.domain}{path}", **changes)
        return X509SVID(
            spiffe_id=SpiffeID(self.domain, path),
            chain=(made.certificate, self.issuing.certificate),
            private_key=made.key,
        )

    def certificate(self, uri: str, **changes: Any) -> Made:
        span = {"not_before": now() - HOUR, "not_after": now() + HOUR}
        return make(LEAF, self.issuing, **{"uris": (uri,), **span, **changes})

    def bundle(self) -> TrustBundle:
        return TrustBundle(self.domain, (self.root.certificate,))


class MemorySource:
    """Implements `legation.sdk.model.Source`; tests change it at will."""

    def __init__(self, svid: X509SVID | None, *bundles: TrustBundle) -> None:
        self._view = TrustView(
            svids=(svid,) if svid else (),
            bundles={bundle.trust_domain: bundle for bundle in bundles},
            generation=1,
        )
        self.error: LegationError | None = None
        self.revision = 0
        self.revoked: set[int] = set()
        self.banned: set[SpiffeID] = set()
        self.stale = False
        self.policies = PolicyMatcher([])
        self.reports: list[Refusal] = []
        self.reported = threading.Event()
        self.acknowledged: list[tuple[str, int, tuple[str, ...]]] = []
        self.attached: dict[str, tuple[str, ...]] = {}
        self._listeners: list[Callable[[Change], None]] = []

    # --- what tests do ---------------------------------------------------------------------

    def change(self, *aspects: Aspect) -> None:
        self.revision += 1
        for listener in list(self._listeners):
            listener(frozenset(aspects))

    def rotate(self, svid: X509SVID) -> None:
        self._replace(svids=(svid,))
        self.change(Aspect.IDENTITY)

    def trust(self, *bundles: TrustBundle) -> None:
        self._replace(bundles={bundle.trust_domain: bundle for bundle in bundles})
        self.change(Aspect.BUNDLES)

    def lists(self, *crls: bytes) -> None:
        self._replace(crls=crls)
        self.change(Aspect.REVOCATIONS)

    def revoke(self, serial: int) -> None:
        self.revoked.add(serial)
        self.change(Aspect.REVOCATIONS)

    def ban(self, spiffe_id: SpiffeID) -> None:
        self.banned.add(spiffe_id)
        self.change(Aspect.REVOCATIONS)

    def grow_stale(self) -> None:
        self.stale = True
        self.change(Aspect.STALENESS)

    def set_policies(self, *policies: Any) -> None:
        self.policies = PolicyMatcher(policies)
        self.change(Aspect.POLICIES)

    @property
    def causes(self) -> list[Cause]:
        return [report.cause for report in self.reports]

    def _replace(self, **changes: Any) -> None:
        view = self._view
        self._view = replace(view, generation=view.generation + 1, **changes)

    # --- what the SDK does -----------------------------------------------------------------

    def view(self) -> TrustView:
        if self.error is not None:
            raise self.error
        return self._view

    def refusal(self, *, serial: int, spiffe_id: SpiffeID, issuer: Any = None) -> Cause | None:
        if serial in self.revoked:
            return Cause.CERTIFICATE_REVOKED
        if spiffe_id in self.banned:
            return Cause.IDENTITY_BANNED
        return Cause.REVOCATION_DATA_STALE if self.stale else None

    def decide(self, request: Request) -> Decision:
        return self.policies.decide(request)

    def subscribe(self, listener: Callable[[Change], None]) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def attach(self, enforcer: str, capabilities: Collection[str] = ()) -> Callable[[], None]:
        self.attached[enforcer] = tuple(capabilities)
        return lambda: self.attached.pop(enforcer, None) and None

    def applied(self, enforcer: str, revision: int, notes: Collection[str] = ()) -> None:
        self.acknowledged.append((enforcer, revision, tuple(notes)))

    def refused(self, report: Refusal) -> None:
        self.reports.append(report)
        self.reported.set()
