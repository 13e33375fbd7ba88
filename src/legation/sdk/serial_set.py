"""An exact set of serial numbers that takes some twenty bytes for each.

A Python set of a million integers takes four times as much. This one is a hash table of
short byte strings that grows by one bucket at a time (linear hashing: W. Litwin, 1980), so
that no single addition ever takes long.
"""

from collections.abc import Iterator

from legation.errors import InvalidInput

WIDTH = 16  # octets of a serial number; longer ones are kept apart
LONG_WIDTH = 20  # RFC 5280, section 4.1.2.2: the longest there are
_MOST_IN_A_BUCKET = 12
_FIRST_BUCKETS = 8


class SerialSet:
    """Serial numbers. One thread may write while any number of others look."""

    def __init__(self) -> None:
        self._buckets = [b""] * _FIRST_BUCKETS
        # How hashes map to buckets: the mask, and below which bucket twice the mask counts.
        # One object, so that a reader sees both or neither.
        self._shape = (_FIRST_BUCKETS - 1, 0)
        self._count = 0
        self._long: set[bytes] = set()

    def __len__(self) -> int:
        return self._count + len(self._long)

    def __contains__(self, serial: int) -> bool:
        if not 0 <= serial < 1 << (8 * WIDTH):
            return 0 < serial < 1 << (8 * LONG_WIDTH) and serial.to_bytes(LONG_WIDTH) in self._long
        return self._holds(serial.to_bytes(WIDTH))

    def add(self, packed: bytes) -> bool:
        """Add serial numbers of 16 octets each, big-endian; return whether any was new.

        Raises:
            InvalidInput: the length is not a multiple of 16.
        """
        before = self._count
        for key in _split(packed, WIDTH):
            index = self._index(hash(key), self._shape)
            bucket = self._buckets[index]
            if _place(bucket, key) >= 0:
                continue
            self._buckets[index] = bucket + key
            self._count += 1
            if self._count > _MOST_IN_A_BUCKET * len(self._buckets):
                self._grow()
        return self._count != before

    def discard(self, packed: bytes) -> bool:
        """Remove serial numbers of 16 octets each; return whether any was there.

        Raises:
            InvalidInput: the length is not a multiple of 16.
        """
        before = self._count
        for key in _split(packed, WIDTH):
            index = self._index(hash(key), self._shape)
            place = _place(self._buckets[index], key)
            if place >= 0:
                bucket = self._buckets[index]
                self._buckets[index] = bucket[:place] + bucket[place + WIDTH :]
                self._count -= 1
        return self._count != before

    def add_long(self, packed: bytes) -> bool:
        """Add serial numbers of 20 octets each, for those that do not fit into 16.

        Raises:
            InvalidInput: the length is not a multiple of 20.
        """
        before = len(self._long)
        self._long.update(_split(packed, LONG_WIDTH))
        return len(self._long) != before

    def discard_long(self, packed: bytes) -> bool:
        """Remove serial numbers of 20 octets each; return whether any was there.

        Raises:
            InvalidInput: the length is not a multiple of 20.
        """
        before = len(self._long)
        self._long.difference_update(_split(packed, LONG_WIDTH))
        return len(self._long) != before

    def _holds(self, key: bytes) -> bool:
        hashed = hash(key)
        while True:
            shape = self._shape
            if _place(self._buckets[self._index(hashed, shape)], key) >= 0:
                return True
            # The writer may have moved it to another bucket between the two steps.
            if shape is self._shape:
                return False

    @staticmethod
    def _index(hashed: int, shape: tuple[int, int]) -> int:
        mask, split = shape
        index = hashed & mask
        return index if index >= split else hashed & (2 * mask + 1)

    def _grow(self) -> None:
        """Divide the next bucket in two; what moves is in both until readers know of it."""
        mask, split = self._shape
        stay: list[bytes] = []
        move: list[bytes] = []
        for key in _split(self._buckets[split], WIDTH):
            (stay if hash(key) & (2 * mask + 1) == split else move).append(key)
        self._buckets.append(b"".join(move))
        self._shape = (mask, split + 1) if split < mask else (2 * mask + 1, 0)
        self._buckets[split] = b"".join(stay)


def _split(packed: bytes, width: int) -> Iterator[bytes]:
    if len(packed) % width:
        raise InvalidInput(f"{len(packed)} octets are no serial numbers of {width} octets each")
    return (packed[at : at + width] for at in range(0, len(packed), width))


def _place(bucket: bytes, key: bytes) -> int:
    place = bucket.find(key)
    while place % WIDTH and place >= 0:  # found across two neighbours
        place = bucket.find(key, place + 1)
    return place
