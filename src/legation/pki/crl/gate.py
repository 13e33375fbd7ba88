"""The gate: what a list has to be before anyone may see it.

A wrong list that is out there cannot be taken back: verifiers keep it until its next update,
and refuse everyone or accept the revoked meanwhile. So the bytes to be published are read again
by the reader that verifiers use, and are held against everything known of them, in this order:

1. they can be read;
2. the issuer has signed them, and may;
3. they count now: begun, not over, the end after the beginning;
4. their scope is the one that certificates name;
5. they follow what was published before: a higher number, and not an older beginning unless what
   was published begins in the future;
6. they name whom they should and why, no more and no less.

A list that adds to the one before it has that one's lines, byte for byte, which came through here;
so it is read, in the same order, for what it adds.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime

from cryptography import x509

from legation.causes import Cause, Failure
from legation.errors import Conflict, VerificationError
from legation.pki.crl.delta import DeltaList
from legation.pki.crl.entries import WHAT, RevokedEntry
from legation.pki.crl.reading import RevocationList, SignedList


def admit(
    der: bytes,
    issuer_certificate: x509.Certificate,
    *,
    previous: RevocationList | None,
    shard_url: str | None,
    entries: Mapping[int, RevokedEntry],
    at: datetime,
) -> RevocationList:
    """Hold a whole list against the gate; return it as read.

    Args:
        der: what is to be published.
        issuer_certificate: of who has to have signed it.
        previous: the list that it follows, if there is one.
        shard_url: the URL that certificates of its shard name; None for the whole issuer.
        entries: what it has to say, by serial number.
        at: the moment of publication.

    Raises:
        InvalidInput, VerificationError, Conflict: it must not be published.
    """
    new = RevocationList.from_der(der)  # (1)
    _check_whole(new, issuer_certificate, previous=previous, shard_url=shard_url, at=at)
    _require_told(((entry.serial, entry.reason) for entry in new.read_entries()), entries)  # (6)
    return new


def admit_following(
    der: bytes,
    issuer_certificate: x509.Certificate,
    *,
    previous: RevocationList,
    shard_url: str | None,
    added: Mapping[int, RevokedEntry],
    at: datetime,
) -> RevocationList:
    """Hold a list against the gate that has all lines of the one before, and others behind them.

    Args:
        der: what is to be published.
        issuer_certificate: of who has to have signed it.
        previous: the list that it follows.
        shard_url: the URL that certificates of its shard name; None for the whole issuer.
        added: what it has to say besides, by serial number.
        at: the moment of publication.

    Raises:
        InvalidInput, VerificationError, Conflict: it must not be published.
    """
    new, told = RevocationList.following(der, previous)  # (1)
    _check_whole(new, issuer_certificate, previous=previous, shard_url=shard_url, at=at)
    _require_told(((entry.serial, entry.reason) for entry in told), added)  # (6)
    return new


def admit_delta(
    der: bytes,
    issuer_certificate: x509.Certificate,
    *,
    base: RevocationList,
    whole: RevocationList,
    entries: Mapping[int, RevokedEntry],
    at: datetime,
) -> DeltaList:
    """Hold a delta list against the gate; return it as read.

    Args:
        der: what is to be published.
        issuer_certificate: of who has to have signed it.
        base: the list that it says it can be added to.
        whole: the list of the same moment, which has passed the gate.
        entries: what `whole` names.
        at: the moment of publication.

    Raises:
        InvalidInput, VerificationError, Conflict: it must not be published.
    """
    new = DeltaList.from_der(der)  # (1)
    _check_itself(new, issuer_certificate, at)  # (2), (3)
    # (4), (5): RFC 5280, section 5.2.3: those of one moment have one number.
    of_whole = (whole.number, whole.scope, whole.this_update, whole.next_update)
    if of_whole != (new.number, new.scope, new.this_update, new.next_update):
        raise Conflict(f"the delta {WHAT} is not of the same moment and scope as the whole one")
    if base.number != new.base_number:
        raise Conflict(f"the delta {WHAT} is for the list {new.base_number}, not {base.number}")
    if _reasons(new.added_to(base)) != _reasons(entries):  # (6)
        raise Conflict(f"the delta {WHAT} and its base do not make the whole one")
    return new


def check_successor(
    previous: RevocationList | None,
    new: RevocationList,
    issuer_certificate: x509.Certificate,
    at: datetime,
) -> None:
    """Check that `new`, whatever it should name, may be published after `previous`.

    Raises:
        VerificationError: `new` is not validly signed by the issuer, or does not count at `at`.
        Conflict: it is of another scope than `previous`, or its number or time go back.
    """
    _check_itself(new, issuer_certificate, at)
    if previous is None:
        return
    if (new.issuer_key_id, new.scope) != (previous.issuer_key_id, previous.scope):
        raise Conflict(f"the new {WHAT} covers other certificates than the previous one")
    if new.number <= previous.number:
        raise Conflict(f"the {WHAT} number {new.number} does not follow {previous.number}")
    # One from the future, of a clock that was ahead, would else forbid every other until then.
    if new.this_update < previous.this_update <= at:
        raise Conflict(f"the new {WHAT} is older than the previous one")


def _check_whole(
    new: RevocationList,
    issuer_certificate: x509.Certificate,
    *,
    previous: RevocationList | None,
    shard_url: str | None,
    at: datetime,
) -> None:
    check_successor(previous, new, issuer_certificate, at)  # (2), (3), (5)
    if new.scope != (() if shard_url is None else (shard_url,)):  # (4)
        raise Conflict(f"the new {WHAT} covers {new.shard_url!a}, not {shard_url!a}")


def _require_told(lines: Iterable[tuple[int, str]], entries: Mapping[int, RevokedEntry]) -> None:
    told = list(lines)
    if len(told) != len(entries) or dict(told) != _reasons(entries):
        raise Conflict(f"the new {WHAT} says something else than it should")


def _check_itself(new: SignedList, issuer_certificate: x509.Certificate, at: datetime) -> None:
    if not new.verify_signature(issuer_certificate):
        raise VerificationError(
            [Failure(cause=Cause.BAD_SIGNATURE, detail=f"the issuer did not sign this {WHAT}")]
        )
    if new.next_update <= max(new.this_update, at):
        raise _stale(f"it ended at {new.next_update}")
    if new.this_update > at:
        raise _stale(f"it begins at {new.this_update}")


def _stale(detail: str) -> VerificationError:
    return VerificationError([Failure(cause=Cause.REVOCATION_DATA_STALE, detail=detail)])


def _reasons(entries: Mapping[int, RevokedEntry]) -> dict[int, str]:
    return {serial: entry.reason for serial, entry in entries.items()}
