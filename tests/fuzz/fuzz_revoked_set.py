"""Compact revoked sets: small inputs that unpack to much, and second ways to say the same."""

from legation.pki.revoked_set import RevokedSet

_EPOCH = 1 << 16
SEEDS = tuple(
    RevokedSet.from_indices(indices, shard=shard).to_bytes()
    for indices, shard in (
        ((), 0),
        ((0, 1, 2, 900), 3),
        (range(0, 40 * _EPOCH, 20_011), 65_535),
        (range(7, _EPOCH), 1),
        ((0, (1 << 48) - 1), 9),
    )
)


def one_input(data: bytes) -> None:
    """Read a set; what is read has this one encoding, and answers for what it lists."""
    found = RevokedSet.from_bytes(data)
    if found.to_bytes() != data:
        raise AssertionError("a set with two encodings")
    index = next(found.indices(), None)
    if index is not None and not found.contains(1 << 64 | found.shard << 48 | index):
        raise AssertionError("a set that denies whom it lists")
