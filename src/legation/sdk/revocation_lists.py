"""Revocation lists, where there is no agent that tells revocations live."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from cryptography import x509

from legation.causes import Cause
from legation.errors import LegationError
from legation.pki.crl import RevocationList

_log = logging.getLogger(__name__)


class RevocationLists:
    """What a set of lists says about a serial number. Immutable.

    As in Envoy and OpenSSL, one list switches the check on for every issuer: from then on a
    certificate that no current list covers is refused.

    Attributes:
        ders: the lists as they were given.
        parsed: those of them that could be read, by their DER.
        unreadable: how many could not.

    Args:
        lists: DER, as the Workload API or a file gave them.
        before: whose parsed lists are taken over where the bytes are the same.
    """

    def __init__(self, lists: Iterable[bytes], *, before: "RevocationLists | None" = None) -> None:
        self.ders = tuple(lists)
        parsed: dict[bytes, RevocationList] = {}
        self.unreadable = 0
        known = before.parsed if before else {}
        for der in self.ders:
            try:
                found = known.get(der) or RevocationList.from_der(der)
                _ = found.entries  # read here, not in the handshake that asks first
            except LegationError as error:
                # What it would have covered counts as not covered.
                self.unreadable += 1
                _log.warning("a revocation list cannot be used: %s", error)
            else:
                parsed[der] = found
        self.parsed: Mapping[bytes, RevocationList] = parsed
        self._by_issuer: dict[x509.Name, list[RevocationList]] = {}
        for newest in _newest_of_each_scope(parsed.values()):
            self._by_issuer.setdefault(newest.issuer_name, []).append(newest)

    def refusal(
        self, *, serial: int, issuer: x509.Certificate | None, at: datetime
    ) -> Cause | None:
        """Return why the lists refuse a certificate, or None."""
        if not self.ders:
            return None
        lists = self._of(issuer)
        if any(serial in one.entries for one in lists):
            return Cause.CERTIFICATE_REVOKED
        if not lists:
            return Cause.REVOCATION_DATA_MISSING
        # Which shard the certificate belongs to is not known here, so every one has to be
        # current.
        if any(at > one.next_update for one in lists):
            return Cause.REVOCATION_DATA_STALE
        return None

    def _of(self, issuer: x509.Certificate | None) -> Sequence[RevocationList]:
        if issuer is None:
            return [one for lists in self._by_issuer.values() for one in lists]
        return [
            one for one in self._by_issuer.get(issuer.subject, ()) if one.verify_signature(issuer)
        ]


def _newest_of_each_scope(lists: Iterable[RevocationList]) -> Iterable[RevocationList]:
    newest: dict[tuple[bytes, tuple[str, ...]], RevocationList] = {}
    for one in lists:
        scope = (one.issuer_key_id, one.scope)
        rival = newest.get(scope)
        if rival is None or one.number > rival.number:
            newest[scope] = one
    return newest.values()
