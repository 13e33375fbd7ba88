"""A source that follows a trust domain in memory.

It is `legation.sdk.core.SourceCore` over the same `Knowledge` that a real source has, fed
with the messages that a real agent would send: what answers in a test answers in production.
"""

import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Self

from legation.clock import FixedClock
from legation.errors import LegationError, Unavailable
from legation.pki import SpiffeID, TrustBundle, TrustDomain
from legation.sdk.core import SourceCore
from legation.sdk.knowledge import Knowledge, RevocationData
from legation.sdk.model import Aspect, Change, Refusal
from legation.testing.identity import Identity
from legation.wire.protobuf import enforcement_pb2 as pb

Issue = Callable[[timedelta], Identity]


class InMemorySource(SourceCore):
    """Implements `legation.sdk.model.Source`. Made by `InMemoryTrustDomain.source`.

    Attributes:
        identity: what it presents.
        refusals: what was told to the agent, oldest first: one for each peer refused.
    """

    def __init__(
        self,
        issue: Issue,
        *,
        lifetime: timedelta,
        clock: FixedClock,
        bundles: Mapping[TrustDomain, TrustBundle],
    ) -> None:
        """Begin with an identity and nothing revoked."""
        super().__init__(Knowledge(clock))
        self.refusals: list[Refusal] = []
        self._issue = issue
        self._lifetime = lifetime
        self._writing = threading.RLock()
        self.knowledge.revocation_data = RevocationData.LIVE
        self.knowledge.enforcement.begin()
        self.identity = issue(lifetime)
        self._bundles = dict(bundles)
        self._show()

    @property
    def spiffe_id(self) -> SpiffeID:
        """Whose source it is."""
        return self.identity.spiffe_id

    # --- what a test does ---------------------------------------------------------------------

    def rotate(self, *, lifetime: timedelta | None = None) -> Identity:
        """Take a new certificate with a new key into use.

        Args:
            lifetime: of this one; by default that of the source.

        Returns:
            The new identity. Connections that are open stay open.
        """
        return self.present(self._issue(lifetime or self._lifetime))

    def present(self, identity: Identity) -> Identity:
        """Take any identity into use, for example one that another authority has issued."""
        with self._writing:
            self.identity = identity
            change = self._show()
        self.publish(change)
        return identity

    def lose_identity(self, error: LegationError | None = None) -> None:
        """Have no identity any more, as when the agent takes it away.

        Args:
            error: what `view` raises from now on; by default `Unavailable`.
        """
        why = error or Unavailable("the identity was taken away")
        with self._writing:
            change = self.knowledge.withdraw(why)
        self.publish(change)

    def refused(self, report: Refusal) -> None:
        """Keep the report in `refusals`."""
        self.refusals.append(report)

    def close(self) -> None:
        """Have no view any more."""
        self.lose_identity(Unavailable("the source is closed"))

    def wait_ready(self, timeout: float | None = None) -> None:
        """Return at once: it is ready from the beginning, as `X509Source.wait_ready`."""
        del timeout

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- what its trust domain does -----------------------------------------------------------

    def trust(self, bundles: Mapping[TrustDomain, TrustBundle]) -> None:
        """Trust these from now on."""
        with self._writing:
            self._bundles = dict(bundles)
            change = self._show() if self.knowledge.held else frozenset()
        self.publish(change)

    def hear(self, *messages: pb.FollowResponse, aspect: Aspect | None = None) -> None:
        """Fold messages as if the agent had sent them; tell the listeners of what differs.

        Args:
            messages: in the order they came.
            aspect: what has changed beyond what the fold can see, such as the age of the data.
        """
        with self._writing:
            changes: list[Change] = [
                self.knowledge.enforcement.accept(
                    message.SerializeToString(), clock=self.knowledge.clock
                )
                for message in messages
            ]
        change = frozenset().union(*changes, {aspect} if aspect else ())
        if change:
            self.publish(change)

    def _show(self) -> Change:
        return self.knowledge.show((self.identity.svid,), self._bundles, ())
