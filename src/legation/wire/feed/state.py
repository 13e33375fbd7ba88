"""The fold: what a reader of the feed knows at a revision."""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, ClassVar

from legation.causes import Cause
from legation.errors import InvalidInput
from legation.pki.bundle import TrustBundle
from legation.pki.spiffe_id import SpiffeID
from legation.policy import AuthorizationPolicy
from legation.wire.feed.events import FeedEvent, Kind
from legation.wire.feed.values import (
    Ban,
    PublishedCRL,
    Revocation,
    RotationOrder,
    WorkloadEntry,
)

_SetValue = Callable[["FeedState", str, Mapping[str, Any]], None]
_Delete = Callable[["FeedState", str], object]


class FeedState:
    """Everything that the events up to `revision` say.

    The authority and every agent fold the same events with this class, so they cannot
    disagree about what an event means. It does no I/O and reads no clock.
    """

    def __init__(self) -> None:
        self.revision = 0
        self.bundles: dict[str, TrustBundle] = {}
        self.entries: dict[str, WorkloadEntry] = {}
        self.policies: dict[str, AuthorizationPolicy] = {}
        self.revocations: dict[int, Revocation] = {}
        self.bans: dict[str, Ban] = {}
        self.crls: dict[str, PublishedCRL] = {}
        self.rotations: dict[str, RotationOrder] = {}

    def apply(self, event: FeedEvent) -> None:
        """Fold one event.

        Raises:
            InvalidInput: the revision does not rise, or the value does not fit its kind.
                The state is unchanged then.
        """
        if event.revision <= self.revision:
            raise InvalidInput(f"feed revision {event.revision} after {self.revision}")
        self.restore(event)

    def restore(self, event: FeedEvent) -> None:
        """Fold one event of a snapshot, in any order, each key at most once."""
        set_value, delete = self._FOLDS[event.kind]
        if event.value is None:
            delete(self, event.key)
        else:
            set_value(self, event.key, event.value)
        self.revision = max(self.revision, event.revision)

    def refusal(self, *, serial: int, spiffe_id: SpiffeID | str) -> Cause | None:
        """Return why a peer that shows this certificate is refused, or None."""
        if serial in self.revocations:
            return Cause.CERTIFICATE_REVOKED
        if str(spiffe_id) in self.bans:
            return Cause.IDENTITY_BANNED
        return None

    def forget_expired(self, at: datetime) -> int:
        """Drop what is over before `at`; return how many revocations were.

        Those are the revocations of certificates that have expired, and the rotation orders
        that no certificate is old enough for any more.
        """
        over = [serial for serial, row in self.revocations.items() if row.expires_at < at]
        for serial in over:
            del self.revocations[serial]
        for key in [key for key, order in self.rotations.items() if order.expires_at < at]:
            del self.rotations[key]
        return len(over)

    def entries_of(self, agent: SpiffeID | str) -> Iterator[WorkloadEntry]:
        """Yield the entries that `agent` may serve."""
        name = str(agent)
        return (entry for entry in self.entries.values() if name in entry.agents)

    def _set_bundle(self, key: str, value: Mapping[str, Any]) -> None:
        self.bundles[key] = TrustBundle.from_document(key, value)

    def _set_entry(self, key: str, value: Mapping[str, Any]) -> None:
        self.entries[key] = WorkloadEntry.from_value(value)

    def _set_policy(self, key: str, value: Mapping[str, Any]) -> None:
        self.policies[key] = AuthorizationPolicy.from_document(value)

    def _set_revocation(self, key: str, value: Mapping[str, Any]) -> None:
        self.revocations[int(key, 16)] = Revocation.from_value(value)

    def _set_ban(self, key: str, value: Mapping[str, Any]) -> None:
        self.bans[key] = Ban.from_value(value)

    def _set_crl(self, key: str, value: Mapping[str, Any]) -> None:
        self.crls[key] = PublishedCRL.from_value(value)

    def _set_rotation(self, key: str, value: Mapping[str, Any]) -> None:
        self.rotations[key] = RotationOrder.from_value(value)

    _FOLDS: ClassVar[dict[Kind, tuple[_SetValue, _Delete]]] = {
        Kind.BUNDLE: (_set_bundle, lambda state, key: state.bundles.pop(key, None)),
        Kind.ENTRY: (_set_entry, lambda state, key: state.entries.pop(key, None)),
        Kind.POLICY: (_set_policy, lambda state, key: state.policies.pop(key, None)),
        Kind.REVOCATION: (
            _set_revocation,
            lambda state, key: state.revocations.pop(int(key, 16), None),
        ),
        Kind.BAN: (_set_ban, lambda state, key: state.bans.pop(key, None)),
        Kind.CRL: (_set_crl, lambda state, key: state.crls.pop(key, None)),
        Kind.ROTATION: (_set_rotation, lambda state, key: state.rotations.pop(key, None)),
    }
