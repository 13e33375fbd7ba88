"""The compact revoked set: which serial numbers of one shard are revoked, in few bytes.

Legation numbers the certificates of a shard one after the other (`legation.pki.serials`), so
who is revoked is a set of small numbers, which takes an eighth of a bit where a revocation list
takes forty bytes. The set is exact: nobody is in it by chance. It says nothing about a serial
number that its issuer never gave out; whoever asks has verified the certificate's chain before.

Encoding, version 1. After an octet with the version come bits, the first one the highest of its
octet, and zeros up to a whole octet. Numbers from 1 are Elias gamma codes: as many zeros as the
number has bits less one, and its bits. There follow:

- the shard plus 1; how many epochs follow plus 1;
- for each epoch of 65,536 indices in which somebody is revoked, in rising order:
  - by how much its number is above that of the one before (above -1 for the first);
  - one bit: 0 if the listed are the revoked, 1 if they are the others;
  - four bits: the Rice parameter r;
  - how many are listed, plus 1;
  - each of them as a Rice code of how many indices lie between it and the one before: that
    number divided by 2**r in unary, ones with a zero at the end, and its r lowest bits.

Each epoch is written in the way with the shortest Rice codes; if two are as short, the revoked
are listed rather than the others, and then the smaller r counts. So one set has one encoding, and
a reader takes no other. docs/decisions/compact-revoked-set.md
compares the size with what is possible.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, Self

from legation.errors import InvalidInput, LimitExceeded
from legation.pki.serials import INDEX_BITS, SHARD_BITS, SerialNumber

MAX_SIZE: Final = 4 << 20
MAX_EPOCHS: Final = 1 << 16
EPOCH_BITS: Final = 16
_EPOCH: Final = 1 << EPOCH_BITS
_VERSION: Final = 1
_RICE_BITS: Final = 4
_WHAT: Final = "compact revoked set"
_NOT_CANONICAL: Final = f"a {_WHAT} that is not in its one encoding"
# What gamma codes may say at most, in bits: more is never meant.
_SHARD_WIDTH: Final = SHARD_BITS + 1
_COUNT_WIDTH: Final = EPOCH_BITS + 1
_EPOCH_WIDTH: Final = INDEX_BITS - EPOCH_BITS + 1


class RevokedSet:
    """The revoked serial numbers of one issuer's shard."""

    __slots__ = ("_epochs", "shard")

    def __init__(self, shard: int, epochs: dict[int, "_Epoch"]) -> None:
        """Take what `from_indices` or `from_bytes` has checked; `epochs` rise."""
        self.shard = shard
        self._epochs = epochs

    @classmethod
    def from_indices(cls, indices: Iterable[int], *, shard: int) -> Self:
        """Make the set of these indices, in any order.

        Raises:
            InvalidInput: shard or an index out of range.
            LimitExceeded: they are spread over more than 65,536 epochs.
        """
        if not 0 <= shard < 1 << SHARD_BITS:
            raise InvalidInput(f"a shard is a number of {SHARD_BITS} bits, not {shard}")
        ordered = sorted(set(indices))
        if ordered and not 0 <= ordered[0] <= ordered[-1] < 1 << INDEX_BITS:
            raise InvalidInput(f"a serial index is a number of {INDEX_BITS} bits")
        epochs = {}
        for number, members in groupby(ordered, key=lambda index: index >> EPOCH_BITS):
            epochs[number] = _Epoch.of([index & (_EPOCH - 1) for index in members])
            if len(epochs) > MAX_EPOCHS:
                raise LimitExceeded(f"a {_WHAT} has at most {MAX_EPOCHS} epochs")
        return cls(shard, epochs)

    @classmethod
    def from_serials(cls, serials: Iterable[int], *, shard: int) -> Self:
        """Make the set of these serial numbers.

        Raises:
            InvalidInput: one is of another shard, or not of Legation's making.
            LimitExceeded: as `from_indices`.
        """
        return cls.from_indices((_index(serial, shard) for serial in serials), shard=shard)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` renders.

        Raises:
            LimitExceeded: more than 4 MiB, or more than 65,536 epochs.
            InvalidInput: not such a set, or not in its one encoding.
        """
        if len(data) > MAX_SIZE:
            raise LimitExceeded(f"a {_WHAT} has at most {MAX_SIZE} bytes, this one {len(data)}")
        if data[:1] != bytes((_VERSION,)):
            raise InvalidInput(f"not a {_WHAT} of version {_VERSION}")
        bits = _Reader(data[1:])
        shard = bits.gamma(_SHARD_WIDTH) - 1
        if shard >> SHARD_BITS:
            raise InvalidInput(f"a shard is a number of {SHARD_BITS} bits, not {shard}")
        count = bits.gamma(_EPOCH_WIDTH) - 1
        if count > MAX_EPOCHS:
            raise LimitExceeded(f"a {_WHAT} has at most {MAX_EPOCHS} epochs, not {count}")
        epochs = {}
        number = -1
        for _ in range(count):
            number += bits.gamma(_EPOCH_WIDTH)
            if number >> INDEX_BITS - EPOCH_BITS:
                raise InvalidInput(f"a {_WHAT} with an index of more than {INDEX_BITS} bits")
            epochs[number] = _Epoch.read(bits)
        bits.end()
        return cls(shard, epochs)

    def to_bytes(self) -> bytes:
        """Render the one encoding of this set."""
        parts = [_gamma(self.shard + 1), _gamma(len(self._epochs) + 1)]
        last = -1
        for number, epoch in self._epochs.items():
            parts.append(_gamma(number - last))
            parts.extend(epoch.to_bits())
            last = number
        bits = "".join(parts)
        size = -(-len(bits) // 8)
        return bytes((_VERSION,)) + int(bits.ljust(size * 8, "0"), 2).to_bytes(size, "big")

    def contains(self, serial: int) -> bool:
        """Tell whether the certificate with this serial number is revoked.

        Its issuer's chain was verified before. The random part of the number does not matter:
        an issuer gives out each index once.

        Raises:
            InvalidInput: the number is of another shard or not of Legation's making, so this
                set cannot tell.
        """
        index = _index(serial, self.shard)
        epoch = self._epochs.get(index >> EPOCH_BITS)
        return epoch is not None and epoch.contains(index & (_EPOCH - 1))

    def indices(self) -> Iterator[int]:
        """Yield the indices of the revoked, rising."""
        for number, epoch in self._epochs.items():
            for low in epoch.members():
                yield number << EPOCH_BITS | low

    def __len__(self) -> int:
        return sum(len(epoch) for epoch in self._epochs.values())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RevokedSet):
            return NotImplemented
        return (self.shard, self._epochs) == (other.shard, other._epochs)

    def __hash__(self) -> int:
        return hash((self.shard, len(self), tuple(self._epochs)))


@dataclass(frozen=True, slots=True)
class _Epoch:
    """Who is revoked of 65,536 neighbours: those listed, or all others.

    Attributes:
        listed: rising.
        others: whether the revoked are the others.
        rice: the parameter of the codes.
    """

    listed: "array[int]"
    others: bool
    rice: int

    @classmethod
    def of(cls, members: Sequence[int]) -> Self:
        """Choose the shortest way to write these; rising, at least one."""
        size, rice = _shortest(members)
        if _EPOCH - len(members) < size:  # every other one would take a bit at least
            rest = _rest(members)
            size_of_rest, rice_of_rest = _shortest(rest)
            if size_of_rest < size:
                return cls(array("H", rest), True, rice_of_rest)
        return cls(array("H", members), False, rice)

    @classmethod
    def read(cls, bits: "_Reader") -> Self:
        """Read one that was written in its shortest way.

        Raises:
            InvalidInput: it was not, or is none.
        """
        others, rice = bits.take(1) == 1, bits.take(_RICE_BITS)
        listed = bits.rice(bits.gamma(_COUNT_WIDTH) - 1, rice)
        size, best = _shortest(listed)
        unlisted = _EPOCH - len(listed)
        if rice != best or not (unlisted if others else listed):
            raise InvalidInput(_NOT_CANONICAL)
        if unlisted <= size:
            size_of_rest, _ = _shortest(_rest(listed))
            if size_of_rest < size or (others and size_of_rest == size):
                raise InvalidInput(_NOT_CANONICAL)
        return cls(listed, others, rice)

    def to_bits(self) -> Iterator[str]:
        yield f"{self.others:d}{self.rice:0{_RICE_BITS}b}{_gamma(len(self.listed) + 1)}"
        low_bits = (1 << self.rice) - 1
        for gap in _gaps(self.listed):
            yield "1" * (gap >> self.rice) + "0"
            if self.rice:
                yield f"{gap & low_bits:0{self.rice}b}"

    def contains(self, low: int) -> bool:
        place = bisect_left(self.listed, low)
        is_listed = place < len(self.listed) and self.listed[place] == low
        return is_listed != self.others

    def members(self) -> Sequence[int]:
        return _rest(self.listed) if self.others else self.listed

    def __len__(self) -> int:
        return _EPOCH - len(self.listed) if self.others else len(self.listed)


class _Reader:
    """Bits one after the other."""

    def __init__(self, data: bytes) -> None:
        self._bits = f"{int.from_bytes(data, 'big'):0{8 * len(data)}b}" if data else ""
        self._at = 0

    def take(self, count: int) -> int:
        """Return the number that the next bits are; 0 for no bits."""
        end = self._at + count
        if end > len(self._bits):
            raise InvalidInput(f"a {_WHAT} that ends early")
        taken = self._bits[self._at : end]
        self._at = end
        return int(taken, 2) if taken else 0

    def gamma(self, width: int) -> int:
        """Return an Elias gamma code of a number of at most `width` bits."""
        one = self._bits.find("1", self._at, self._at + width)
        if one < 0:
            raise InvalidInput(f"a {_WHAT} with a number that is too large, or cut off")
        zeros, self._at = one - self._at, one
        return self.take(zeros + 1)

    def rice(self, count: int, parameter: int) -> "array[int]":
        """Return rising numbers below 65,536 from the Rice codes of what lies between them."""
        bits, at = self._bits, self._at
        found = array("H")
        last = -1
        for _ in range(count):
            zero = bits.find("0", at, at + _EPOCH + 1)
            end = zero + 1 + parameter
            if zero < 0 or end > len(bits):
                raise InvalidInput(f"a {_WHAT} that ends early")
            last += 1 + ((zero - at) << parameter) + int(bits[zero:end], 2)
            if last >= _EPOCH:
                raise InvalidInput(f"a {_WHAT} with an index beyond its epoch")
            found.append(last)
            at = end
        self._at = at
        return found

    def end(self) -> None:
        """Check that nothing follows but zeros up to a whole octet."""
        rest = self._bits[self._at :]
        if len(rest) >= 8 or "1" in rest:
            raise InvalidInput(f"a {_WHAT} with something after its end")


def _gaps(listed: Sequence[int]) -> Iterator[int]:
    """Yield how many numbers lie between each one and the one before."""
    last = -1
    for number in listed:
        yield number - last - 1
        last = number


def _shortest(listed: Sequence[int]) -> tuple[int, int]:
    """Return how many bits the shortest Rice codes take, and with which parameter."""
    gaps = list(_gaps(listed))
    size, rice = sum(gaps) + len(gaps), 0
    for parameter in range(1, 1 << _RICE_BITS):
        fixed = (parameter + 1) * len(gaps)
        if fixed >= size:
            break
        size, rice = min((size, rice), (fixed + sum(gap >> parameter for gap in gaps), parameter))
    return size, rice


def _rest(listed: Sequence[int]) -> list[int]:
    present = set(listed)
    return [number for number in range(_EPOCH) if number not in present]


def _gamma(number: int) -> str:
    digits = f"{number:b}"
    return "0" * (len(digits) - 1) + digits


def _index(serial: int, shard: int) -> int:
    number = SerialNumber.from_int(serial)
    if number.shard != shard:
        raise InvalidInput(f"the serial number {number} is of shard {number.shard}, not {shard}")
    return number.index
