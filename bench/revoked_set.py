"""Bytes that say who is revoked: the compact set, and what else there is.

Beside each size, for the same certificates:

- ``least``: log2 of how many such sets there are, which no encoding stays below on average;
- ``list``: the DER revocation list, made here;
- ``clubcard``: 1.12 times ``least``, the overhead that the README of mozilla/clubcard states for
  the web's certificates of 2024-08-29 (8.5 MB, the bound being 7.6 MB); exact for certificates
  that its maker knew. Not run here;
- ``Bloom``: 1.44 log2(issued) bits for each of the revoked, so that one false alarm is expected
  among all that were issued (B. Bloom, 1970). Computed, and not exact.
"""

import math
import random
import time
from datetime import UTC, datetime, timedelta

from bench.figures import Figure, figure
from legation.pki import (
    Issuer,
    RevokedEntry,
    SerialNumber,
    Subject,
    Validity,
    build_crl,
    generate_key,
    self_sign,
)
from legation.pki.revoked_set import RevokedSet

ISSUED = (100_000, 1_000_000, 10_000_000)
SHARES = (0.001, 0.01)
RUNS = 3
LOOKUPS = 20_000
_CLUBCARD_OVERHEAD = 1.12
_SHARD = 3


def run() -> list[Figure]:
    """Measure."""
    issuer = _issuer()
    figures: list[Figure] = []
    for issued in ISSUED:
        for share in SHARES:
            figures += _measure(issuer, issued, round(issued * share))
    return figures


def least_bytes(issued: int, revoked: int) -> float:
    """Return log2 of the number of sets of `revoked` among `issued`, in bytes."""
    parts = (issued + 1, -(revoked + 1), -(issued - revoked + 1))
    nats = sum(math.copysign(math.lgamma(abs(part)), part) for part in parts)
    return nats / math.log(2) / 8


def _measure(issuer: Issuer, issued: int, revoked: int) -> list[Figure]:
    name = f"revoked_set.{issued // 1000}k.{revoked}"
    indices = random.Random(issued).sample(range(issued), revoked)
    making, reading, asking = [], [], []
    data = b""
    for _ in range(RUNS):
        begun = time.perf_counter()
        data = RevokedSet.from_indices(indices, shard=_SHARD).to_bytes()
        made = time.perf_counter()
        found = RevokedSet.from_bytes(data)
        read = time.perf_counter()
        making.append(1e3 * (made - begun))
        reading.append(1e3 * (read - made))
        asking.append(_lookup_us(found, issued, set(indices)))
    least = least_bytes(issued, revoked)
    peer = {
        "least": least,
        "over it in %": 100 * (len(data) / least - 1),
        "list": float(len(_list(issuer, indices))),
        "clubcard": _CLUBCARD_OVERHEAD * least,
        "Bloom": 1.44 * math.log2(issued) * revoked / 8,
    }
    return [
        figure(f"{name}.size", "bytes", [len(data)], peer=peer),
        figure(f"{name}.make", "ms", making),
        figure(f"{name}.read", "ms", reading),
        figure(f"{name}.lookup", "us", asking),
    ]


def _lookup_us(found: RevokedSet, issued: int, revoked: set[int]) -> float:
    asked = random.Random(1).choices(range(issued), k=LOOKUPS)
    serials = [SerialNumber.generate(shard=_SHARD, index=index).to_int() for index in asked]
    begun = time.perf_counter()
    answers = [found.contains(serial) for serial in serials]
    seconds = time.perf_counter() - begun
    assert answers == [index in revoked for index in asked]
    return 1e6 * seconds / LOOKUPS


def _list(issuer: Issuer, indices: list[int]) -> bytes:
    now = datetime.now(UTC)
    return build_crl(
        issuer,
        (
            RevokedEntry(
                SerialNumber.generate(shard=_SHARD, index=index).to_int(), now, "superseded"
            )
            for index in indices
        ),
        number=1,
        this_update=now,
        next_update=now + timedelta(hours=1),
        shard_url=f"http://status.example/crl/{issuer.key_id_hex}/{_SHARD}.crl",
    )


def _issuer() -> Issuer:
    now = datetime.now(UTC)
    key = generate_key()
    certificate = self_sign(
        key,
        subject=Subject(common_name="Issuer"),
        serial=1 << 100,
        validity=Validity(now, now + timedelta(days=1)),
    ).certificate
    return Issuer(certificate, key)
