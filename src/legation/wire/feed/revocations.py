"""Who is revoked: single revocations, and pages of those that nobody takes back.

Pages stay as they came. Beside them an index says where a serial number is, so a revocation in
a page takes some forty octets, and is found by a search in a short sorted list.
"""

import heapq
import itertools
from array import array
from bisect import bisect_left
from collections.abc import (
    Callable,
    Container,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
)
from datetime import datetime
from types import MappingProxyType
from typing import Final

from legation.wire.feed.journal import Journal
from legation.wire.feed.revocation_page import RevocationPage, to_ms, to_ms_up
from legation.wire.feed.values import Revocation

_ROW_BITS: Final = 12  # of a place; the others are the number of its page
_ROW: Final = (1 << _ROW_BITS) - 1
_KEY: Final = (1 << 64) - 1
_BUCKET_SHIFT: Final = 64 - 12  # 4096 lists


class HeldPage:
    """A page, and which of its rows count.

    Attributes:
        page: as it came.
        number: of the page among those held.
    """

    __slots__ = ("_gone", "_over", "number", "page")

    def __init__(self, page: RevocationPage, number: int) -> None:
        self.page = page
        self.number = number
        self._over = 0  # rows before this one have expired
        self._gone: set[int] = set()  # of the others, those that do not count

    def __len__(self) -> int:
        """Return how many rows count."""
        return len(self.page) - self._over - len(self._gone)

    @property
    def spoiled(self) -> bool:
        """Whether a row does not count although it has not expired."""
        return bool(self._gone)

    def rows(self) -> Sequence[int]:
        """Return the rows that count."""
        rows = range(self._over, len(self.page))
        return [row for row in rows if row not in self._gone] if self._gone else rows

    def serials(self) -> Iterator[int]:
        """Yield the serial numbers that count."""
        if self._gone or self._over:
            return map(self.page.serial, self.rows())
        return iter(self.page.serials())

    def leave_out(self, row: int) -> None:
        """Let a row count no longer."""
        self._gone.add(row)

    def next_end(self) -> int:
        """Return when the next row expires, Unix milliseconds."""
        return self.page.expires_ms(self._over)

    def take_over(self, limit_ms: int, most: int) -> list[int]:
        """Let at most so many rows that end before `limit_ms` go; return their serial numbers."""
        taken: list[int] = []
        while (
            len(taken) < most
            and self._over < len(self.page)
            and self.page.expires_ms(self._over) < limit_ms
        ):
            if self._over in self._gone:
                self._gone.remove(self._over)
            else:
                taken.append(self.page.serial(self._over))
            self._over += 1
        return taken


class Revocations(MutableMapping[int, Revocation]):
    """Revocations by serial number: those in pages, then the single ones as they came."""

    def __init__(self) -> None:
        self._single: dict[int, Revocation] = {}
        self._pages: dict[int, HeldPage] = {}
        self._next_number = 0
        self._index = _Index(self._serial_at)
        self._journal: Journal[int] = Journal()
        # Single serial numbers by the end of their certificate, and those ends as a heap: what
        # is over is found without a look at what is not.
        self._ending: dict[datetime, dict[int, None]] = {}
        self._ends: list[datetime] = []
        self._page_ends: list[tuple[int, int]] = []  # when a page's next row expires, and which

    # --- a mapping --------------------------------------------------------------------------

    def __contains__(self, serial: object) -> bool:
        return serial in self._single or (
            isinstance(serial, int) and self._index.find(serial) is not None
        )

    def __getitem__(self, serial: int) -> Revocation:
        single = self._single.get(serial)
        if single is not None:
            return single
        place = self._index.find(serial)
        if place is None:
            raise KeyError(serial)
        return self._pages[place >> _ROW_BITS].page.revocation(place & _ROW)

    def __setitem__(self, serial: int, revocation: Revocation) -> None:
        if serial in self._single:
            self._drop_single(serial)
        else:
            self._take_out(serial)
        self._single[serial] = revocation
        ending = self._ending.get(revocation.expires_at)
        if ending is None:
            ending = self._ending[revocation.expires_at] = {}
            heapq.heappush(self._ends, revocation.expires_at)
        ending[serial] = None
        self._journal.note((serial,))

    def __delitem__(self, serial: int) -> None:
        if serial in self._single:
            self._drop_single(serial)
        elif not self._take_out(serial):
            raise KeyError(serial)
        self._journal.note((serial,))

    def __iter__(self) -> Iterator[int]:
        for held in self._pages.values():
            yield from held.serials()
        yield from self._single

    def __len__(self) -> int:
        return len(self._single) + len(self._index)

    # --- what a mapping does not have -------------------------------------------------------

    @property
    def mark(self) -> int:
        """What rises with every change."""
        return self._journal.mark

    @property
    def single(self) -> Mapping[int, Revocation]:
        """Those that are in no page."""
        return MappingProxyType(self._single)

    def pages(self) -> Sequence[HeldPage]:
        """Return the pages of which something counts."""
        return [held for held in self._pages.values() if len(held)]

    def adopt(self, page: RevocationPage, *, rows: Container[int] | None = None) -> Sequence[int]:
        """Take up a page, or only these rows of it.

        What is known already of a serial number stands, unless the page says the same of it.

        Returns:
            The serial numbers that were single and are in the page now.
        """
        held = HeldPage(page, self._next_number)
        self._next_number += 1
        self._pages[held.number] = held
        serials = page.serials()
        moved: list[int] = []
        for row, serial in enumerate(serials) if self._single or rows is not None else ():
            single = self._single.get(serial)
            if rows is not None and row not in rows:
                held.leave_out(row)
            elif single is not None and single == page.revocation(row):
                self._drop_single(serial)
                moved.append(serial)
            elif single is not None:
                held.leave_out(row)
        for row in self._index.add(serials, held.rows(), held.number << _ROW_BITS):
            held.leave_out(row)  # another page has it
        if moved or held.spoiled:
            known = set(moved)
            serials = [serial for serial in held.serials() if serial not in known]
        self._journal.note(serials)
        if len(held):
            heapq.heappush(self._page_ends, (held.next_end(), held.number))
        else:
            del self._pages[held.number]
        return moved

    def drop(self, held: HeldPage) -> None:
        """Forget a page and what counts of it."""
        serials = list(held.serials())
        for serial in serials:
            self._index.remove(serial)
        del self._pages[held.number]
        self._journal.note(serials)

    def forget_expired(self, at: datetime, *, most: int) -> list[int]:
        """Drop those of certificates that have expired before `at`, so many at most.

        Returns:
            Their serial numbers.
        """
        forgotten: list[int] = []
        while self._ends and self._ends[0] < at and len(forgotten) < most:
            ending = self._ending[self._ends[0]]
            while ending and len(forgotten) < most:
                serial, _ = ending.popitem()
                del self._single[serial]
                forgotten.append(serial)
            if not ending:
                del self._ending[heapq.heappop(self._ends)]
        limit_ms = to_ms_up(at)
        while self._page_ends and self._page_ends[0][0] < limit_ms and len(forgotten) < most:
            held = self._pages.get(self._page_ends[0][1])
            over = [] if held is None else held.take_over(limit_ms, most - len(forgotten))
            for serial in over:
                self._index.remove(serial)
            forgotten += over
            if held is not None and len(held):
                heapq.heapreplace(self._page_ends, (held.next_end(), held.number))
            else:
                _, number = heapq.heappop(self._page_ends)
                self._pages.pop(number, None)
        self._journal.note(forgotten)
        return forgotten

    def touched_since(self, mark: int) -> Sequence[int] | None:
        """Return the serial numbers that came, changed or went since `mark`; None: too many."""
        return self._journal.since(mark)

    def beyond(self, others: "Revocations", *, most: int) -> Sequence[int] | None:
        """Return the serial numbers that `others` does not have.

        Pages that both hold are passed over; None if more than `most` had to be looked at besides.
        """
        same = {(held.page.document, len(held)) for held in others.pages() if not held.spoiled}
        apart = [
            held
            for held in self.pages()
            if held.spoiled or (held.page.document, len(held)) not in same
        ]
        if sum(map(len, apart)) + len(self._single) > most:
            return None
        serials = itertools.chain(self._single, *(held.serials() for held in apart))
        return [serial for serial in serials if serial not in others]

    def of_identities(self, wanted: Callable[[str], bool]) -> Iterator[int]:
        """Yield the serial numbers of the certificates of some identities.

        `wanted` is asked once for each identity of a page, not for each certificate.
        """
        for held in self.pages():
            page = held.page
            places = {place for place, name in enumerate(page.identities) if wanted(name)}
            if places:
                identity = page.identity
                yield from (page.serial(row) for row in held.rows() if identity[row] in places)
        for serial, revocation in self._single.items():
            if wanted(revocation.spiffe_id):
                yield serial

    def unexpired(self, at: datetime) -> Iterator[tuple[int, str]]:
        """Yield serial number and issuer of the certificates that expire after `at`."""
        now_ms = to_ms(at)
        for held in self.pages():
            page = held.page
            for row in held.rows():
                if page.expires_ms(row) > now_ms:
                    yield page.serial(row), page.issuer(row)
        for serial, revocation in self._single.items():
            if revocation.expires_at > at:
                yield serial, revocation.issuer

    # --- inside -----------------------------------------------------------------------------

    def _serial_at(self, place: int) -> int:
        return self._pages[place >> _ROW_BITS].page.serial(place & _ROW)

    def _drop_single(self, serial: int) -> None:
        self._ending[self._single.pop(serial).expires_at].pop(serial)

    def _take_out(self, serial: int) -> bool:
        """Let a row of a page no longer count; tell whether one did."""
        place = self._index.remove(serial)
        if place is None:
            return False
        # A page with nothing left goes when its time has come, as others do.
        self._pages[place >> _ROW_BITS].leave_out(place & _ROW)
        return True


class _Index:
    """Where in pages serial numbers are, in sixteen octets each.

    Two lists for each of 4096 buckets: 64 bits of the numbers, rising, and their places. Those
    bits are random in a number of Legation's making, so the buckets are as long as each other.
    """

    def __init__(self, serial_at: Callable[[int], int]) -> None:
        self._serial_at = serial_at
        self._buckets: dict[int, tuple[array[int], array[int]]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def find(self, serial: int) -> int | None:
        """Return the place of a serial number, or None."""
        bucket = self._buckets.get(_key(serial) >> _BUCKET_SHIFT)
        if bucket is None:
            return None
        at, known = self._locate(serial, bucket)
        return bucket[1][at] if known else None

    def add(self, serials: Sequence[int], rows: Iterable[int], number: int) -> list[int]:
        """Add the serial numbers of these rows of a page, unless they are there already.

        Returns:
            The rows of those that were.
        """
        known = []
        buckets = self._buckets
        # A million at the start of an authority: there is no call in this loop but the needed.
        for row in rows:
            serial = serials[row]
            key = (serial ^ serial >> 64) & _KEY
            bucket = buckets.get(key >> _BUCKET_SHIFT)
            if bucket is None:
                bucket = buckets[key >> _BUCKET_SHIFT] = array("Q"), array("Q")
            keys, places = bucket
            at = bisect_left(keys, key)
            if at < len(keys) and keys[at] == key:
                at, is_known = self._locate(serial, bucket)
                if is_known:
                    known.append(row)
                    continue
            keys.insert(at, key)
            places.insert(at, number | row)
            self._size += 1
        return known

    def remove(self, serial: int) -> int | None:
        """Take one out; return where it was, or None."""
        bucket = self._buckets.get(_key(serial) >> _BUCKET_SHIFT)
        if bucket is None:
            return None
        at, known = self._locate(serial, bucket)
        if not known:
            return None
        del bucket[0][at]
        self._size -= 1
        return bucket[1].pop(at)

    def _locate(self, serial: int, bucket: tuple["array[int]", "array[int]"]) -> tuple[int, bool]:
        """Return where a number is in its bucket or would be, and whether it is."""
        key = _key(serial)
        keys, places = bucket
        at = bisect_left(keys, key)
        while at < len(keys) and keys[at] == key:
            if self._serial_at(places[at]) == serial:
                return at, True
            at += 1
        return at, False


def _key(serial: int) -> int:
    return (serial ^ serial >> 64) & _KEY
