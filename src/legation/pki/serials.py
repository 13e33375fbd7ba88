"""Serial numbers: who can be revoked is read from the number alone.

::

    127                64 63        48 47                   0
    +--------------------+------------+---------------------+
    |   64 random bits   |   shard    |        index        |
    +--------------------+------------+---------------------+

The random bits come first because the standards want them unpredictable (CA/Browser
Forum baseline requirements, section 7.1); the shard names the CRL that would list the
certificate; shard and index together never repeat, so neither does the number.
"""

import secrets
from dataclasses import dataclass
from typing import Self

from legation.errors import InvalidInput

RANDOM_BITS = 64
SHARD_BITS = 16
INDEX_BITS = 48
SERIAL_BITS = RANDOM_BITS + SHARD_BITS + INDEX_BITS


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class SerialNumber:
    """A certificate serial number of Legation's making.

    Attributes:
        random: 64 unpredictable bits, never all zero.
        shard: 16 bits, which of the issuer's CRLs covers it.
        index: 48 bits, unique within the shard.
    """

    random: int
    shard: int
    index: int

    def __post_init__(self) -> None:
        # Zero would leave a number short enough to be guessed.
        if not 0 < self.random < 1 << RANDOM_BITS:
            raise InvalidInput(f"the random part of a serial number has {RANDOM_BITS} bits, not 0")
        if not 0 <= self.shard < 1 << SHARD_BITS:
            raise InvalidInput(f"a shard is a number of {SHARD_BITS} bits, not {self.shard}")
        if not 0 <= self.index < 1 << INDEX_BITS:
            raise InvalidInput(f"a serial index is a number of {INDEX_BITS} bits")

    @classmethod
    def generate(cls, *, shard: int, index: int) -> Self:
        """Draw the random part.

        Raises:
            InvalidInput: shard or index out of range.
        """
        return cls(random=secrets.randbelow((1 << RANDOM_BITS) - 1) + 1, shard=shard, index=index)

    @classmethod
    def from_int(cls, number: int) -> Self:
        """Take a serial number apart.

        Raises:
            InvalidInput: it is none of ours: negative, or too long, or without random bits.
        """
        if not 0 < number < 1 << SERIAL_BITS:
            raise InvalidInput("this serial number does not have Legation's layout")
        return cls(
            random=number >> (SHARD_BITS + INDEX_BITS),
            shard=number >> INDEX_BITS & (1 << SHARD_BITS) - 1,
            index=number & (1 << INDEX_BITS) - 1,
        )

    def to_int(self) -> int:
        """Return the number as it stands in a certificate: positive, at most 17 octets of DER."""
        return self.random << (SHARD_BITS + INDEX_BITS) | self.shard << INDEX_BITS | self.index

    def __str__(self) -> str:
        return format(self.to_int(), "032x")
