"""The revocation lists that go into files: read, verified, and complete.

OpenSSL refuses a peer when there is no list for an issuer in its chain, and nginx asks
for one for each of them, the root included. So the lists of all issuers go into the file
together or not at all.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime

from cryptography import x509

from legation.causes import Cause, Failure
from legation.errors import InvalidInput, LimitExceeded, Unavailable, VerificationError
from legation.pki import RevocationList, key_id
from legation.wire.feed import FeedState, PublishedCRL

# Of one list. A hundred thousand entries are about 4 MB.
MAX_FETCHED = 32 << 20
MAX_TOTAL = 64 << 20

Fetch = Callable[[str], Awaitable[bytes]]


class RevocationLists:
    """Reads each list once.

    Args:
        fetch: gets what is at a URL, at most `MAX_FETCHED` bytes; for lists that are too
            large to travel in the feed.
    """

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._known: dict[str, tuple[PublishedCRL, RevocationList]] = {}

    async def current(
        self, published: Iterable[PublishedCRL], issuers: Sequence[x509.Certificate]
    ) -> tuple[RevocationList, ...]:
        """Return every published list, verified.

        Args:
            published: what the feed says.
            issuers: certificates of the issuers that are known; each must have a list.

        Raises:
            Unavailable: an issuer has no list, or one cannot be fetched.
            LimitExceeded: they are too large.
            VerificationError: a list is not its issuer's.
            InvalidInput: a list cannot be read, or is another than was announced.
        """
        by_key = {_key_id_of(issuer): issuer for issuer in issuers}
        announced = {crl.key: crl for crl in sorted(published, key=lambda crl: crl.key)}
        known: dict[str, tuple[PublishedCRL, RevocationList]] = {}
        for key, crl in announced.items():
            held = self._known.get(key)
            if held is None or held[0] != crl:
                held = crl, await self._read(crl, by_key.get(crl.issuer))
            known[key] = held
        self._known = known
        lists = tuple(held[1] for held in known.values())
        missing = by_key.keys() - {crl.issuer for crl in announced.values()}
        if missing:
            name = by_key[min(missing)].subject.rfc4514_string()
            raise Unavailable(f"there is no revocation list of the issuer {name} yet")
        if sum(len(known.der) for known in lists) > MAX_TOTAL:
            raise LimitExceeded(f"the revocation lists exceed {MAX_TOTAL} bytes together")
        return lists

    async def _read(self, crl: PublishedCRL, issuer: x509.Certificate | None) -> RevocationList:
        der = crl.der
        if der is None:
            if issuer is None:
                raise Unavailable(f"the revocation list at {crl.url} is of an unknown issuer")
            der = await self._fetch(crl.url)
        return await asyncio.to_thread(_verified, der, crl, issuer)


def names_all(lists: Iterable[RevocationList], state: FeedState, *, at: datetime) -> bool:
    """Tell whether the lists name every certificate that the feed says is revoked.

    The feed is ahead of the lists for a moment after each revocation. A server that has
    these lists in force has the memo only if this holds.
    """
    # What an issuer has signed goes with it; its last list has nothing later.
    gone = {row.signs_as.key_id for row in state.revoked_issuers.values() if row.signs_as}
    named: dict[str, set[int]] = {}
    for known in lists:
        named.setdefault(known.issuer_key_id_hex, set()).update(known.entries)
    return all(
        issuer in gone or serial in named.get(issuer, ())
        for serial, issuer in state.revocations.unexpired(at)
    )


def _verified(
    der: bytes, announced: PublishedCRL, issuer: x509.Certificate | None
) -> RevocationList:
    read = RevocationList.from_der(der)
    if (read.issuer_key_id_hex, read.number) != (announced.issuer, announced.number):
        raise InvalidInput(
            f"the revocation list {announced.key} is number {read.number}, not {announced.number}"
        )
    # Without the issuer's certificate at hand the feed's signature vouches for the list.
    if issuer is not None and not read.verify_signature(issuer):
        detail = f"the revocation list {announced.key} is not its issuer's"
        raise VerificationError([Failure(cause=Cause.BAD_SIGNATURE, detail=detail)])
    return read


def _key_id_of(certificate: x509.Certificate) -> str:
    return key_id(certificate.public_key()).hex()  # type: ignore[arg-type]
