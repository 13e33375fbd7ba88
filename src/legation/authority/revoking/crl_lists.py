"""What is published of an issuer's shard: its list, and what goes with it. No I/O, no clock.

`next_lists` makes all of it anew, `following_list` adds to a list what was revoked since; both
end at the gate (`legation.pki.crl.gate`), and there is no other way. `published` takes what they
return, so that nothing else comes into the store or the feed.
"""

import dataclasses
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeAlias

from legation.authority.model import ListRecord
from legation.authority.settings import AuthoritySettings
from legation.authority.store import EventDraft, NewlyRevoked, RevokedRow, StoredCRL
from legation.pki import Issuer, RevocationList, RevokedEntry, build_crl
from legation.pki.crl import DeltaList, admit, admit_delta, admit_following, build_delta, changes
from legation.pki.revoked_set import RevokedSet
from legation.wire.feed import CompactSet, FeedSigner, Kind, PublishedCRL
from legation.wire.revoked_set import PublishedSet

MAX_INLINE = 512 << 10  # bytes of a list that travels in the feed itself
# Of all lists together. Beyond it the agents' consumers take none, and every agent would be sent
# all of them again whenever they are refreshed.
MAX_INLINE_IN_ALL = 4 << 20
# A delta list that is a larger part of the whole one than this begins anew, from a later base.
_LARGEST_DELTA = 1 / 4

Place: TypeAlias = tuple[str, int]  # (issuer key id in hexadecimal, shard)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lists:
    """What is out, or about to be, of one issuer's shard.

    Attributes:
        place: issuer and shard.
        whole: the list.
        delta: the delta list of the same moment, or None.
        base: the whole list that `delta` says it can be added to; None without a delta.
        number: the highest that a list of the shard has had: this one's, or that of one that
            was not recorded in full and is lost.
        revision: of the feed, up to which revocations are in the list.
        unexpired_at: the moment whose unexpired certificates the list names; None if it was not
            made by this process.
        made_at: when the list was made of all that it names, and not by adding to another.
    """

    place: Place
    whole: RevocationList = field(repr=False)
    number: int
    delta: DeltaList | None = field(default=None, repr=False)
    base: RevocationList | None = field(default=None, repr=False)
    revision: int = 0
    unexpired_at: datetime | None = None
    made_at: datetime | None = None

    @classmethod
    def from_stored(cls, stored: StoredCRL) -> "Lists":
        """Take up what the store holds.

        Raises:
            InvalidInput: it is damaged.
        """
        return cls(
            place=(stored.issuer, stored.shard),
            whole=RevocationList.from_der(stored.der),
            delta=None if stored.delta is None else DeltaList.from_der(stored.delta),
            base=None if stored.base is None else RevocationList.from_der(stored.base),
            number=stored.number,
            revision=stored.revision,
        )

    @property
    def is_lost(self) -> bool:
        """Whether a newer one was out, so that another has to follow."""
        return self.number > self.whole.number

    def record(self) -> ListRecord:
        """Return what there is to say of the list."""
        (issuer, shard), whole = self.place, self.whole
        return ListRecord(
            issuer=issuer,
            shard=shard,
            number=whole.number,
            entries=whole.count,
            size=len(whole.der),
            this_update=whole.this_update,
            next_update=whole.next_update,
        )

    def may_be_followed(self, at: datetime, settings: AuthoritySettings) -> bool:
        """Tell whether the next list may add to this one.

        Not where something else goes with a list that has to be made of all its lines; and not
        for longer than a list lasts that only ages: what has expired has to leave it.
        """
        return (
            self.made_at is not None
            and self.made_at <= at < self.made_at + timedelta(seconds=settings.refresh_s)
            and not settings.crl_delta
            and not settings.crl_compact
        )


def is_root(issuer: Issuer) -> bool:
    """Tell whether an issuer is its own."""
    return issuer.certificate.subject == issuer.certificate.issuer


def shard_count(issuer: Issuer, settings: AuthoritySettings) -> int:
    """Return how many lists an issuer has. A root certifies a handful of issuers: one."""
    return 1 if is_root(issuer) else settings.crl_shards


def shard_url(issuer: Issuer, shard: int, settings: AuthoritySettings) -> str | None:
    """Return the URL by which a list names its shard; None if it covers the whole issuer."""
    if shard_count(issuer, settings) == 1:
        return None
    return settings.crl_url(issuer.key_id_hex, shard)


def places(issuers: Iterable[Issuer], settings: AuthoritySettings) -> set[Place]:
    """Return every issuer and shard that must have a list."""
    return {
        (issuer.key_id_hex, shard)
        for issuer in issuers
        for shard in range(shard_count(issuer, settings))
    }


def unexpired_at(held: Lists | None, at: datetime, settings: AuthoritySettings) -> datetime:
    """Return the moment whose unexpired certificates the next list must name.

    RFC 5280, section 3.3: an entry stays until it was on one list issued after the
    certificate's end. One validity ago is earlier than the list before the last; and after a
    longer pause it is the last list that tells what no list has named after its end.
    """
    moment = at - timedelta(seconds=settings.crl_validity_s)
    return moment if held is None else min(moment, held.whole.this_update)


def next_lists(
    issuer: Issuer,
    shard: int,
    rows: Iterable[RevokedRow],
    *,
    held: Lists | None,
    at: datetime,
    settings: AuthoritySettings,
    revision: int = 0,
    until: datetime | None = None,
) -> Lists:
    """Make what follows `held` of all its lines, and hold it against the gate.

    Args:
        issuer: signs it.
        shard: which.
        rows: what it has to say.
        held: what it follows.
        at: the moment.
        settings: for how long it counts, and where it is published.
        revision: of the feed, before `rows` were read.
        until: it is the last one, and counts until then; no delta list goes with it.

    Raises:
        InvalidInput, VerificationError, Conflict: it must not be published.
    """
    place = (issuer.key_id_hex, shard)
    entries = {row.serial: RevokedEntry(row.serial, row.revoked_at, row.reason) for row in rows}
    previous = held.whole if held else None
    url = shard_url(issuer, shard, settings)
    der = build_crl(
        issuer,
        entries.values(),
        number=_next_number(held, at),
        this_update=at,
        next_update=until or _end(previous, at, settings),
        shard_url=url,
        # The first list has none to be the base of a delta.
        delta_url=settings.delta_url(*place) if previous and until is None else None,
    )
    whole = admit(der, issuer.certificate, previous=previous, shard_url=url, entries=entries, at=at)
    lists = Lists(
        place=place,
        whole=whole,
        number=whole.number,
        revision=revision,
        unexpired_at=unexpired_at(held, at, settings),
        made_at=at,
    )
    if held is None or until is not None or not settings.crl_delta:
        return lists
    return _with_delta(issuer, lists, entries, held=held, at=at)


def following_list(
    issuer: Issuer, found: NewlyRevoked, *, held: Lists, at: datetime, settings: AuthoritySettings
) -> Lists | None:
    """Add to the lines of `held` what was revoked since, and hold it against the gate.

    Nothing that a list of a million is made of is read, written or compared line by line: its
    lines are taken as they are. What the store counts has to be what the list then names.

    Returns:
        The list; None if it would name more or less than that.

    Raises:
        InvalidInput, VerificationError, Conflict: it must not be published.
    """
    if held.whole.count + len(found.rows) != found.total:
        return None
    added = {row.serial: RevokedEntry(row.serial, row.revoked_at, row.reason) for row in found.rows}
    url = shard_url(issuer, held.place[1], settings)
    der = build_crl(
        issuer,
        added.values(),
        number=_next_number(held, at),
        this_update=at,
        next_update=_end(held.whole, at, settings),
        shard_url=url,
        after=held.whole,
    )
    whole = admit_following(
        der, issuer.certificate, previous=held.whole, shard_url=url, added=added, at=at
    )
    return dataclasses.replace(held, whole=whole, number=whole.number, revision=found.revision)


def _with_delta(
    issuer: Issuer, lists: Lists, entries: dict[int, RevokedEntry], *, held: Lists, at: datetime
) -> Lists:
    """Add the delta list: from the oldest base that is of use to anyone, if that makes it small."""
    whole = lists.whole
    base, told = held.whole, list(changes(held.whole, entries, at=whole.this_update))
    # A verifier whose list is over has to fetch a whole one anyway.
    if held.base is not None and held.base.next_update > at:
        since_base = list(changes(held.base, entries, at=whole.this_update))
        if len(since_base) <= max(len(told), _LARGEST_DELTA * len(entries)):
            base, told = held.base, since_base
    der = build_delta(
        issuer,
        told,
        number=whole.number,
        base_number=base.number,
        this_update=whole.this_update,
        next_update=whole.next_update,
        shard_url=whole.shard_url,
    )
    delta = admit_delta(der, issuer.certificate, base=base, whole=whole, entries=entries, at=at)
    return dataclasses.replace(lists, delta=delta, base=base)


def _next_number(held: Lists | None, at: datetime) -> int:
    """Return the number of the list that follows `held`.

    The clock, in milliseconds, and not a counter: numbers never go back (RFC 5280, section
    5.2.3), and a store that was restored from a copy does not know how far they had come.
    """
    now = round(at.timestamp() * 1000)
    return max(now, held.number + 1) if held else now


def _end(previous: RevocationList | None, at: datetime, settings: AuthoritySettings) -> datetime:
    """Return until when the list counts that follows `previous`.

    If that one begins in the future, the clock was ahead, or is behind by now, and nobody can
    tell. The next one begins today, for the first case; and for the second counts as long as
    the one before would have, within bounds.
    """
    validity = timedelta(seconds=settings.crl_validity_s)
    if previous is None or previous.this_update <= at:
        return at + validity
    return max(at + validity, min(previous.next_update, at + 2 * validity))


def compact_set(lists: Lists, signer: FeedSigner) -> bytes:
    """Return the compact set with the content of a list, signed; always the same bytes."""
    issuer, shard = lists.place
    whole = lists.whole
    serials = (entry.serial for entry in whole.read_entries())
    return PublishedSet(
        issuer=issuer,
        number=whole.number,
        this_update=whole.this_update,
        next_update=whole.next_update,
        revoked=RevokedSet.from_serials(serials, shard=shard),
    ).sign(signer)


def published(
    lists: Lists,
    *,
    settings: AuthoritySettings,
    compact: bytes | None = None,
    others: int = 0,
) -> tuple[StoredCRL, EventDraft]:
    """Return lists as the store and the feed know them.

    Args:
        lists: what `next_lists` has made.
        settings: say where they are published.
        compact: the compact set, if there is one.
        others: bytes of all other lists that are out.
    """
    issuer, shard = lists.place
    whole = lists.whole
    travels = len(whole.der) <= min(MAX_INLINE, MAX_INLINE_IN_ALL - others)
    stored = StoredCRL(
        issuer=issuer,
        shard=shard,
        number=whole.number,
        this_update=whole.this_update,
        next_update=whole.next_update,
        revision=lists.revision,
        der=whole.der,
        delta=lists.delta.der if lists.delta else None,
        base=lists.base.der if lists.base else None,
    )
    value = PublishedCRL(
        issuer=issuer,
        shard=shard,
        number=whole.number,
        this_update=whole.this_update,
        next_update=whole.next_update,
        url=settings.crl_url(*lists.place) or "",
        der=whole.der if travels else None,
        compact=None
        if compact is None
        else CompactSet(
            url=settings.compact_url(*lists.place) or "",
            sha256=hashlib.sha256(compact).hexdigest(),
            size=len(compact),
        ),
    )
    return stored, EventDraft(kind=Kind.CRL, key=value.key, value=value.to_value())
