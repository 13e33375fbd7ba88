"""Revocation lists: fetched over plain HTTP, so anyone on the way may have changed them."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

from cryptography import x509

from legation.errors import Conflict, InvalidInput
from legation.pki import (
    WORKLOAD,
    Issuer,
    RevocationList,
    RevokedEntry,
    SpiffeID,
    Subject,
    Validity,
    build_crl,
    generate_key,
    issue,
    self_sign,
)
from legation.pki.crl import REMOVED, DeltaList, build_delta, times_of


def _signed_part(data: bytes) -> bytes:
    return x509.load_der_x509_crl(data).tbs_certlist_bytes


URL = "http://crl.test/7"
NOW = datetime(2031, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
_KEY = generate_key()
_CA = self_sign(
    _KEY,
    subject=Subject(common_name="Issuer"),
    serial=1 << 100,
    validity=Validity(NOW - HOUR, NOW + 9 * HOUR),
).certificate
_ISSUER = Issuer(_CA, _KEY)
_LEAF = issue(
    _ISSUER,
    WORKLOAD,
    subject=Subject(spiffe_id=SpiffeID.parse("spiffe://example.org/api")),
    public_key=generate_key().public_key(),
    serial=1 << 101,
    validity=Validity(NOW - HOUR, NOW + HOUR),
    crl_url=URL,
).certificate
SEEDS = tuple(
    build_crl(
        _ISSUER,
        [RevokedEntry(_LEAF.serial_number, NOW, "keyCompromise"), RevokedEntry(7, NOW)],
        number=5,
        this_update=NOW,
        next_update=NOW + HOUR,
        shard_url=url,
    )
    for url in (None, URL)
)
_BASE = RevocationList.from_der(SEEDS[1])
SEEDS += (
    build_delta(
        _ISSUER,
        [RevokedEntry(9, NOW, "superseded"), RevokedEntry(7, NOW, REMOVED)],
        number=6,
        base_number=5,
        this_update=NOW,
        next_update=NOW + HOUR,
        shard_url=URL,
    ),
)
_SIGNED_PARTS = {_signed_part(seed) for seed in SEEDS}


def one_input(data: bytes) -> None:
    """Read and ask a list; nothing but InvalidInput may be raised, and no forgery is believed."""
    for kind in (RevocationList, DeltaList):
        with suppress(InvalidInput, Conflict):
            crl = kind.from_der(data)
            # What is signed must be the same; the signature itself has equivalent encodings.
            if crl.verify_signature(_CA) and _signed_part(data) not in _SIGNED_PARTS:
                raise AssertionError("an altered list was believed")
            if isinstance(crl, DeltaList):
                crl.added_to(_BASE)
            else:
                crl.failures(_LEAF, NOW)
    with suppress(InvalidInput):
        times_of(data)
