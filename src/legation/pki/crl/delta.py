"""Delta lists: what has changed since an older whole list (RFC 5280, section 5.2.4)."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import ClassVar, cast

from legation.errors import Conflict
from legation.pki.crl.entries import REMOVED, WHAT, RevokedEntry
from legation.pki.crl.reading import RevocationList, SignedList


class DeltaList(SignedList):
    """A delta list that was read."""

    _IS_DELTA: ClassVar = True

    @property
    def base_number(self) -> int:
        """The number of the oldest whole list that this one can be added to."""
        return cast("int", self._extensions.base_number)  # a delta list has one

    def added_to(self, whole: RevocationList) -> dict[int, RevokedEntry]:
        """Return what a whole list of this moment would name, by serial number.

        Both signatures were verified before, with the same key.

        Raises:
            Conflict: the two do not belong together (RFC 5280, section 6.3.3, step (c)), or
                `whole` is older than the base or not older than this list.
            InvalidInput: an entry is malformed.
        """
        of_whole = (whole.issuer_name, whole.issuer_key_id, whole.scope)
        if of_whole != (self.issuer_name, self.issuer_key_id, self.scope):
            raise Conflict(f"the delta {WHAT} and the whole one cover different certificates")
        if not self.base_number <= whole.number < self.number:
            raise Conflict(
                f"a delta {WHAT} from {self.base_number} to {self.number} "
                f"cannot be added to the list {whole.number}"
            )
        entries = {entry.serial: entry for entry in whole.read_entries()}
        for entry in self.read_entries():
            if entry.reason == REMOVED:
                entries.pop(entry.serial, None)
            else:
                entries[entry.serial] = entry
        return entries


def changes(
    base: RevocationList, entries: Mapping[int, RevokedEntry], *, at: datetime
) -> Iterable[RevokedEntry]:
    """Return what a delta list has to say, so that `base` and it together are `entries`.

    A certificate that is on the base alone was released from hold, or has expired; either way
    it is taken off, which RFC 5280, section 5.3.1, has the same word for.
    """
    before = {entry.serial: entry.reason for entry in base.read_entries()}
    for serial, entry in entries.items():
        if before.pop(serial, None) != entry.reason:
            yield entry
    for serial in before:
        yield RevokedEntry(serial, at, REMOVED)
