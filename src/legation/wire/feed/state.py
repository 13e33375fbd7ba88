"""The fold: what a reader of the feed knows at a revision."""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, ClassVar, Final

from legation.causes import Cause
from legation.errors import InvalidInput
from legation.pki.bundle import TrustBundle
from legation.pki.spiffe_id import SpiffeID
from legation.policy import AuthorizationPolicy, StalenessPolicy
from legation.wire.feed.events import FeedEvent, Kind
from legation.wire.feed.journal import JournaledDict
from legation.wire.feed.key_ban import KeyBan
from legation.wire.feed.revocations import Revocations
from legation.wire.feed.values import (
    Ban,
    PublishedCRL,
    Revocation,
    RotationOrder,
    WorkloadEntry,
)

MOST_FORGOTTEN: Final = 5000  # revocations at a time: some 10 ms

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
        self.revocations = Revocations()
        # Those of issuers' certificates, by the name that is refused as an issuer's.
        self.revoked_issuers: dict[str, Revocation] = {}
        self.bans: JournaledDict[str, Ban] = JournaledDict()
        self.crls: dict[str, PublishedCRL] = {}
        self.rotations: dict[str, RotationOrder] = {}
        self.staleness: dict[str, StalenessPolicy] = {}
        self.key_bans: dict[str, KeyBan] = {}

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
        """Fold one event, whatever was folded before: of a snapshot each key is there once.

        Raises:
            InvalidInput: the value does not fit its kind. The state is unchanged then.
        """
        set_value, delete = self._FOLDS[event.kind]
        if event.value is None:
            delete(self, event.key)
        else:
            set_value(self, event.key, event.value)
        self.revision = max(self.revision, event.revision)

    def refusal(
        self,
        *,
        serial: int,
        spiffe_id: SpiffeID | str,
        issuer_name: str = "",
        is_open: bool = False,
    ) -> Cause | None:
        """Return why a peer that shows this certificate is refused, or None.

        Args:
            serial: of the certificate.
            spiffe_id: whose it is.
            issuer_name: whom it names as its issuer (RFC 4514); empty where nobody looks at it.
            is_open: whether its connection is open already. An issuer that was only superseded
                has signed nothing that would have to end.
        """
        issuer = self.revoked_issuers.get(issuer_name)
        issuer_counts = issuer is not None and (issuer.ends_connections or not is_open)
        if serial in self.revocations or issuer_counts:
            return Cause.CERTIFICATE_REVOKED
        if str(spiffe_id) in self.bans:
            return Cause.IDENTITY_BANNED
        return None

    def refuse(self, serial: int, revocation: Revocation) -> None:
        """Refuse the certificate with this serial number, and what it has signed, if anything."""
        self.revocations[serial] = revocation
        if revocation.signs_as is not None:
            self.revoked_issuers[revocation.signs_as.name] = revocation

    def forget_expired(self, at: datetime, *, most: int = MOST_FORGOTTEN) -> list[int]:
        """Drop what is over before `at`; return the serial numbers that are refused no more.

        Those are of certificates that have expired, so many at most: what a whole fleet was
        revoked of ends in the same minute. Rotation orders go as well that no certificate is
        old enough for any more.
        """
        forgotten = self.revocations.forget_expired(at, most=most)
        for key in [key for key, order in self.rotations.items() if order.expires_at < at]:
            del self.rotations[key]
        # An issuer is never on hold, so its end is all that takes it out.
        for key in [key for key, row in self.revoked_issuers.items() if row.expires_at < at]:
            del self.revoked_issuers[key]
        return forgotten

    def entries_of(self, agent: SpiffeID | str) -> Iterator[WorkloadEntry]:
        """Yield the entries that `agent` may serve."""
        name = str(agent)
        return (entry for entry in self.entries.values() if entry.is_delegated_to(name))

    def _set_bundle(self, key: str, value: Mapping[str, Any]) -> None:
        self.bundles[key] = TrustBundle.from_document(key, value)

    def _set_entry(self, key: str, value: Mapping[str, Any]) -> None:
        self.entries[key] = WorkloadEntry.from_value(value)

    def _set_policy(self, key: str, value: Mapping[str, Any]) -> None:
        self.policies[key] = AuthorizationPolicy.from_document(value)

    def _set_revocation(self, key: str, value: Mapping[str, Any]) -> None:
        self.refuse(_serial(key), Revocation.from_value(value))

    def _set_ban(self, key: str, value: Mapping[str, Any]) -> None:
        self.bans[key] = Ban.from_value(value)

    def _set_crl(self, key: str, value: Mapping[str, Any]) -> None:
        self.crls[key] = PublishedCRL.from_value(value)

    def _set_staleness(self, key: str, value: Mapping[str, Any]) -> None:
        self.staleness[key] = StalenessPolicy.from_document(value)

    def _set_key_ban(self, key: str, value: Mapping[str, Any]) -> None:
        self.key_bans[key] = KeyBan.from_value(value)

    def _set_rotation(self, key: str, value: Mapping[str, Any]) -> None:
        self.rotations[key] = RotationOrder.from_value(value)

    _FOLDS: ClassVar[dict[Kind, tuple[_SetValue, _Delete]]] = {
        Kind.BUNDLE: (_set_bundle, lambda state, key: state.bundles.pop(key, None)),
        Kind.ENTRY: (_set_entry, lambda state, key: state.entries.pop(key, None)),
        Kind.POLICY: (_set_policy, lambda state, key: state.policies.pop(key, None)),
        Kind.REVOCATION: (
            _set_revocation,
            lambda state, key: state.revocations.pop(_serial(key), None),
        ),
        Kind.BAN: (_set_ban, lambda state, key: state.bans.pop(key, None)),
        Kind.CRL: (_set_crl, lambda state, key: state.crls.pop(key, None)),
        Kind.ROTATION: (_set_rotation, lambda state, key: state.rotations.pop(key, None)),
        Kind.STALENESS: (_set_staleness, lambda state, key: state.staleness.pop(key, None)),
        Kind.KEY_BAN: (_set_key_ban, lambda state, key: state.key_bans.pop(key, None)),
    }


def _serial(key: str) -> int:
    try:
        return int(key, 16)
    except ValueError:
        raise InvalidInput(f"{key[:40]!a} is not the serial number of a revocation") from None
