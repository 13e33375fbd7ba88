"""Writing revocation lists: a TBSCertList (RFC 5280, section 5.1) and its signature.

Extensions, names and keys are rendered by `cryptography`; the frame and the lines are written
here. Its builder renders all lines in one call that holds the interpreter lock, twice for the
list and once more to read what was signed: a third of a second for a hundred thousand, in which
an event loop in the same process stands still. Lines written one by one let it go on, and a list
that only adds to the one before it takes that one's lines as they are.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Final

from cryptography import x509

from legation.errors import InvalidInput
from legation.pki import der
from legation.pki.crl.entries import REASONS, REMOVED, WHAT, RevokedEntry
from legation.pki.crl.reading import RevocationList
from legation.pki.issuance import Issuer, distribution_point
from legation.pki.issuance.tbs import write_extension
from legation.pki.keys import sign, signature_algorithm_der
from legation.pki.moments import whole_seconds

_VERSION_2: Final = der.integer(1)
_EXTENSIONS: Final = 0xA0  # [0] EXPLICIT
_LAST_UTC_TIME: Final = 2049  # RFC 5280, section 5.1.2.4
_MAX_NUMBER: Final = 1 << 159  # RFC 5280, section 5.2.3: 20 octets
_MAX_SERIAL: Final = 1 << 159  # RFC 5280, section 4.1.2.2: likewise


def build_crl(
    issuer: Issuer,
    entries: Iterable[RevokedEntry],
    *,
    number: int,
    this_update: datetime,
    next_update: datetime,
    shard_url: str | None = None,
    delta_url: str | None = None,
    after: RevocationList | None = None,
) -> bytes:
    """Make and sign a list of revoked certificates that have not expired yet.

    Args:
        issuer: whose certificates it covers, and who signs.
        entries: all of them; the caller leaves out the expired.
        number: higher than that of every earlier list of this issuer and shard.
        this_update: from when it counts.
        next_update: until when it may be used.
        shard_url: where it is published, if it covers only certificates that name this URL.
        delta_url: where a delta list that brings older ones up to this one is published.
        after: a list whose lines come first, as they are; `entries` are what it lacks.

    Raises:
        InvalidInput: times out of order, an unknown reason, a number or serial out of range.
    """
    own: list[tuple[x509.ExtensionType, bool]] = []
    if delta_url is not None:
        own.append((x509.FreshestCRL([distribution_point(delta_url)]), False))
    extensions = _extensions(issuer, number, shard_url, own)
    lines: list[bytes | memoryview] = [] if after is None else [after.lines]
    lines.append(_lines(entries, REASONS))
    return _signed(issuer, (this_update, next_update), lines, extensions)


def build_delta(
    issuer: Issuer,
    entries: Iterable[RevokedEntry],
    *,
    number: int,
    base_number: int,
    this_update: datetime,
    next_update: datetime,
    shard_url: str | None = None,
) -> bytes:
    """Make and sign what has changed since the list `base_number` (RFC 5280, section 5.2.4).

    Args:
        issuer: as of the base.
        entries: those that the base does not name, and with the reason `REMOVED` those that
            the base names and the newest list does not.
        number: that of the whole list of the same moment.
        base_number: of the oldest whole list that this one can be added to.
        this_update: from when it counts.
        next_update: until when it may be used.
        shard_url: as of the base.

    Raises:
        InvalidInput: as `build_crl`, or the base is not older.
    """
    if base_number >= number:
        raise InvalidInput(f"a delta {WHAT} {number} cannot follow the list {base_number}")
    own = [(x509.DeltaCRLIndicator(base_number), True)]
    extensions = _extensions(issuer, number, shard_url, own)
    lines = [_lines(entries, REASONS | {REMOVED})]
    return _signed(issuer, (this_update, next_update), lines, extensions)


def _extensions(
    issuer: Issuer,
    number: int,
    shard_url: str | None,
    own: Sequence[tuple[x509.ExtensionType, bool]],
) -> bytes:
    if not 0 <= number < _MAX_NUMBER:
        raise InvalidInput(
            f"not possible in a {WHAT}: a number of more than 20 octets, or negative"
        )
    values: list[tuple[x509.ExtensionType, bool]] = [
        (x509.AuthorityKeyIdentifier(issuer.key_id, None, None), False),
        (x509.CRLNumber(number), False),
        *own,
    ]
    if shard_url is not None:
        values.append((_issuing_distribution_point(shard_url), True))
    return b"".join(write_extension(value, critical=critical) for value, critical in values)


def _issuing_distribution_point(url: str) -> x509.IssuingDistributionPoint:
    return x509.IssuingDistributionPoint(
        full_name=distribution_point(url).full_name,
        relative_name=None,
        only_contains_user_certs=False,
        only_contains_ca_certs=False,
        only_some_reasons=None,
        indirect_crl=False,
        only_contains_attribute_certs=False,
    )


def _signed(
    issuer: Issuer,
    times: tuple[datetime, datetime],
    lines: Sequence[bytes | memoryview],
    extensions: bytes,
) -> bytes:
    this_update = whole_seconds(times[0], "this_update")
    next_update = whole_seconds(times[1], "next_update")
    if next_update <= this_update:
        raise InvalidInput("a revocation list must end after it begins")
    algorithm = signature_algorithm_der(issuer.private_key.public_key())
    size = sum(map(len, lines))
    tbs = _sequence(
        _VERSION_2,
        algorithm,
        issuer.name.public_bytes(),
        _time(this_update),
        _time(next_update),
        # RFC 5280, section 5.1.2.6: absent when nothing is revoked.
        der.header(der.SEQUENCE, size) if size else b"",
        *lines,
        der.encode(_EXTENSIONS, der.encode(der.SEQUENCE, extensions)),
    )
    signature = sign(issuer.private_key, tbs)
    return _sequence(tbs, algorithm, der.bit_string(signature))


def _sequence(*parts: bytes | memoryview) -> bytes:
    """Render a SEQUENCE with one copy of what is in it, which may be megabytes."""
    return b"".join((der.header(der.SEQUENCE, sum(map(len, parts))), *parts))


def _lines(entries: Iterable[RevokedEntry], reasons: frozenset[str]) -> bytes:
    """Render the entries: the number is the entry's own, the rest it shares with many."""
    # By the second: a store knows milliseconds, which a list does not tell apart.
    ends: dict[tuple[datetime, str], bytes] = {}
    lines: list[bytes] = []
    for entry in entries:
        serial = entry.serial
        # The builder of `cryptography` would take any number here, too.
        if not 0 < serial < _MAX_SERIAL:
            raise InvalidInput("a serial number is positive and has at most 20 octets")
        shared = entry.revoked_at.replace(microsecond=0), entry.reason
        end = ends.get(shared)
        if end is None:
            end = ends[shared] = _end(entry, reasons)
        octets = serial.bit_length() // 8 + 1
        # All of it is shorter than 128 octets, so that each length is one octet.
        lines.append(
            b"\x30%c\x02%c%b%b"
            % (2 + octets + len(end), octets, serial.to_bytes(octets, "big"), end)
        )
    return b"".join(lines)


def _end(entry: RevokedEntry, reasons: frozenset[str]) -> bytes:
    """Render date and extensions of an entry."""
    if entry.reason not in reasons:
        raise InvalidInput(
            f"{entry.reason[:40]!a} is not a reason for revocation",
            remedy=f"use one of {', '.join(sorted(reasons))}",
        )
    return _time(whole_seconds(entry.revoked_at, "revoked_at")) + _reason(entry.reason)


@lru_cache(maxsize=len(REASONS) + 1)
def _reason(reason: str) -> bytes:
    # RFC 5280, section 5.3.1: no extension at all rather than "unspecified".
    if reason == "unspecified":
        return b""
    value = x509.CRLReason(x509.ReasonFlags(reason))
    return der.encode(der.SEQUENCE, write_extension(value, critical=False))


def _time(moment: datetime) -> bytes:
    text = f"{moment:%Y%m%d%H%M%S}Z".encode()
    if moment.year > _LAST_UTC_TIME:
        return der.encode(der.GENERALIZED_TIME, text)
    return der.encode(der.UTC_TIME, text[2:])
