"""Revocation lists: fetched over plain HTTP, so anyone on the way may have changed them."""

from contextlib import suppress

from cryptography import x509

from legation.errors import InvalidInput
from legation.pki import RevocationList, RevokedEntry, build_crl
from tests.support.pki import CA, HOUR, LEAF, NOW, make


def _signed_part(data: bytes) -> bytes:
    return x509.load_der_x509_crl(data).tbs_certlist_bytes


URL = "http://crl.test/7"
_ISSUER = make(CA, subject="Issuer")
_LEAF = make(LEAF, _ISSUER, crl_urls=(URL,)).certificate
SEEDS = tuple(
    build_crl(
        _ISSUER.issuer,
        [RevokedEntry(_LEAF.serial_number, NOW, "keyCompromise"), RevokedEntry(7, NOW)],
        number=5,
        this_update=NOW,
        next_update=NOW + HOUR,
        shard_url=url,
    )
    for url in (None, URL)
)
_SIGNED_PARTS = {_signed_part(seed) for seed in SEEDS}


def one_input(data: bytes) -> None:
    """Read and ask a list; nothing but InvalidInput may be raised, and no forgery is believed."""
    with suppress(InvalidInput):
        crl = RevocationList.from_der(data)
        # What is signed must be the same; the signature itself has equivalent encodings.
        if crl.verify_signature(_ISSUER.certificate) and _signed_part(data) not in _SIGNED_PARTS:
            raise AssertionError("an altered list was believed")
        crl.failures(_LEAF, NOW)
