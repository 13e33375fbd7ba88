"""Answers questions about certificates.

A question without a nonce is answered from the kept responses. What is not kept is looked up
in the inventory and signed once, and kept; what is asked for again and again is signed anew
ahead of time. A question with a nonce is signed live. A revocation drops what is kept about
its certificate in the same turn of the event loop in which it is folded, so the next answer
says so.
"""

import asyncio
import contextlib
import hashlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

from legation.authority.issuing.workbench import Workbench
from legation.authority.ocsp.cache import Held, Known, Reply, ResponseCache
from legation.authority.ocsp.responders import (
    ActiveResponder,
    DelegatedResponders,
    response_end,
)
from legation.authority.settings import AuthoritySettings
from legation.authority.store import CommittedEvent, InventoryStore
from legation.clock import Clock
from legation.errors import InternalError, LegationError, NotFound, Unavailable
from legation.pki import RevokedEntry
from legation.pki.ocsp import (
    Answer,
    CertificateID,
    Good,
    OCSPError,
    OCSPRequest,
    Status,
    Unknown,
    build_error,
)
from legation.wire.feed import FeedState, Kind

MAX_IN_FLIGHT: Final = 1000  # questions that wait for the inventory or a signature
_TICK_S: Final = 30.0
_WORTH_KEEPING: Final = 255  # bytes of a request; RFC 5019, section 5, has GET up to there
_ERRORS: Final = {error: Reply(der=build_error(error), says=str(error)) for error in OCSPError}
_WORDS: Final[Mapping[type[Status], str]] = {
    Good: "good",
    RevokedEntry: "revoked",
    Unknown: "unknown",
}
_log = logging.getLogger(__name__)


class OCSPService:
    """Answers for all issuers of this authority.

    Attributes:
        answered: how many requests were answered since the start, by `Reply.says`.
        refresh_failures: how often responses could not be signed anew.
    """

    def __init__(
        self,
        store: InventoryStore,
        state: FeedState,
        responders: DelegatedResponders,
        *,
        settings: AuthoritySettings,
        clock: Clock,
        cache: ResponseCache | None = None,
    ) -> None:
        self._store = store
        self._state = state
        self._responders = responders
        self._validity_s = settings.ocsp_validity_s
        self._refresh = timedelta(seconds=settings.ocsp_refresh)
        self._clock = clock
        self._cache = ResponseCache() if cache is None else cache
        self._bench: Workbench[Reply] = Workbench(clock)
        self._making: dict[tuple[str, CertificateID], asyncio.Task[Held | None]] = {}
        self._overtaken: set[tuple[str, CertificateID]] = set()  # of these, by an event
        self._in_flight = 0
        self.answered: Counter[str] = Counter()
        self.refresh_failures = 0

    @property
    def kept(self) -> int:
        """How many responses are kept."""
        return len(self._cache)

    async def answer(self, data: bytes) -> Reply:
        """Answer a request, DER; never raises on what a client can send."""
        reply = await self._answer(data)
        self.answered[reply.says] += 1
        return reply

    async def _answer(self, data: bytes) -> Reply:
        try:
            request = _parsed(data)
        except LegationError:
            return _ERRORS[OCSPError.MALFORMED_REQUEST]
        issuers = {self._responders.issuer_of(each) for each in request.certificate_ids}
        issuer = issuers.pop()
        # A delegate speaks for one issuer, and RFC 5019, section 2.2.3, has this word for
        # questions about the certificates of others.
        if issuer is None or issuers:
            return _ERRORS[OCSPError.UNAUTHORIZED]
        if is_plain(request):
            kept = self._kept(issuer, request.certificate_ids[0])
            if kept is not None:
                return kept.reply
        try:
            async with self._admitted():
                return await self._signed(issuer, request)
        except InternalError:
            _log.exception("an OCSP response cannot be made")
            return _ERRORS[OCSPError.INTERNAL_ERROR]
        except LegationError as error:
            _log.warning("an OCSP response cannot be made now: %s", error)
            return _ERRORS[OCSPError.TRY_LATER]

    async def response(
        self, issuer: str, certificate_id: CertificateID, *, younger_than: timedelta | None = None
    ) -> Held | None:
        """Return the response about a certificate; None if the inventory does not know it.

        Raises:
            LegationError: it cannot be signed now.
        """
        kept = self._kept(issuer, certificate_id)
        oldest = None if younger_than is None else self._clock.now() - younger_than
        if kept is not None and (oldest is None or kept.signed_at > oldest):
            return kept
        # Many who ask at once wait for one signature.
        key = (issuer, certificate_id)
        making = self._making.get(key)
        if making is None:
            making = self._making[key] = asyncio.create_task(self._make(issuer, certificate_id))
            making.add_done_callback(lambda made: self._made(key, made))
        return await asyncio.shield(making)

    def listen(self, committed: CommittedEvent) -> None:
        """Drop what a revocation makes untrue; called for every event of the feed."""
        event = committed.event
        if event.kind is Kind.REVOCATION:  # revoked, or released from hold
            serial = int(event.key, 16)
            self._cache.forget(serial)
            self._overtaken |= {key for key in self._making if key[1].serial == serial}
            if event.value is not None and self._responders.revoked(serial):
                self._cache.clear()

    async def run(self) -> None:
        """Sign anew in time what is asked for, until cancelled."""
        try:
            while True:
                await asyncio.sleep(min(_TICK_S, self._refresh.total_seconds() / 8))
                try:
                    await self.refresh()
                except LegationError as error:
                    self.refresh_failures += 1
                    _log.warning("OCSP responses cannot be signed anew: %s", error)
        finally:
            for making in self._making.values():
                making.cancel()

    async def refresh(self) -> int:
        """Sign anew what is due and was asked for, forget the rest; return how many were signed.

        Raises:
            Unavailable: there is no responder.
        """
        await self._responders.renew_due()
        now = self._clock.now()
        due = self._cache.signed_before(now - self._refresh)
        wanted: dict[str, list[Held]] = {}
        for held in due:
            if held.asked and now <= held.known.not_after:
                wanted.setdefault(held.issuer, []).append(held)
            else:
                # Nobody asked, or the inventory may have forgotten it: back to the first question.
                self._cache.drop(held)
        for issuer, several in wanted.items():
            responder = await self._responders.active(issuer)
            await self._bench.do(self._again(responder, several))
        return sum(map(len, wanted.values()))

    @contextlib.asynccontextmanager
    async def _admitted(self) -> AsyncIterator[None]:
        """Take on work, or say at once that there is too much of it."""
        if self._in_flight >= MAX_IN_FLIGHT:
            raise Unavailable(f"{self._in_flight} questions are being answered already")
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    async def _signed(self, issuer: str, request: OCSPRequest) -> Reply:
        held = None
        if is_plain(request):
            held = await self.response(issuer, request.certificate_ids[0])
        return await self._live(issuer, request) if held is None else held.reply

    def _kept(self, issuer: str, certificate_id: CertificateID) -> Held | None:
        key = (issuer, certificate_id.hash_name, certificate_id.serial)
        return self._cache.get(key, at=self._clock.now())

    async def _make(self, issuer: str, certificate_id: CertificateID) -> Held | None:
        known = await self._known(issuer, certificate_id.serial)
        if known is None:
            return None
        responder = await self._responders.active(issuer)
        made: list[Held] = []

        def sign() -> Iterator[Reply]:
            held = self._sign(responder, certificate_id, known)
            # In the same step as the look at the revocations: none can come in between.
            self._cache.put(held)
            made.append(held)
            yield held.reply

        await self._bench.do(sign())
        if (issuer, certificate_id) in self._overtaken:
            # On hold when it was looked up, perhaps, and released by now: ask the inventory again.
            self._cache.drop(made[0])
        return made[0]

    def _made(self, key: tuple[str, CertificateID], made: "asyncio.Task[Held | None]") -> None:
        del self._making[key]
        self._overtaken.discard(key)
        if not made.cancelled():
            made.exception()  # who asked may be gone, and then nobody else has looked at it

    def _again(self, responder: ActiveResponder, several: Sequence[Held]) -> Iterator[Reply]:
        for before in several:
            if self._cache.holds(before):
                held = self._sign(responder, before.certificate_id, before.known)
                held.asked = False
                self._cache.replace(before, held)
                yield held.reply

    def _sign(
        self, responder: ActiveResponder, certificate_id: CertificateID, known: Known
    ) -> Held:
        answer = self._say(responder, certificate_id, self._status(certificate_id.serial, known))
        der = responder.signer.sign([answer], produced_at=answer.this_update)
        half_left = (self._refresh + timedelta(seconds=self._validity_s)) / 2
        return Held(
            issuer=responder.issuer,
            certificate_id=certificate_id,
            known=known,
            reply=Reply(
                der=der,
                says=_WORDS[type(answer.status)],
                etag=f'"{hashlib.sha256(der).hexdigest()[:32]}"',
                this_update=answer.this_update,
                next_update=answer.next_update,
            ),
            signed_at=answer.this_update,
            serve_until=min(answer.this_update + half_left, answer.next_update),
        )

    async def _live(self, issuer: str, request: OCSPRequest) -> Reply:
        """Answer with a signature of its own: a nonce, several questions, an unknown certificate.

        An answer "unknown" is not kept: the certificate may be on its way to the inventory.
        """
        known = [await self._known_or_kept(issuer, each) for each in request.certificate_ids]
        responder = await self._responders.active(issuer)

        def sign() -> Iterator[Reply]:
            answers = [
                self._say(responder, each, self._status(each.serial, about))
                for each, about in zip(request.certificate_ids, known, strict=True)
            ]
            now = answers[0].this_update
            der = responder.signer.sign(answers, produced_at=now, nonce=request.nonce)
            one = len(answers) == 1
            yield Reply(der=der, says=_WORDS[type(answers[0].status)] if one else "several")

        (reply,) = await self._bench.do(sign())
        return reply

    async def _known_or_kept(self, issuer: str, certificate_id: CertificateID) -> Known | None:
        kept = self._kept(issuer, certificate_id)
        return kept.known if kept else await self._known(issuer, certificate_id.serial)

    async def _known(self, issuer: str, serial: int) -> Known | None:
        """Look a certificate up; None if this issuer never issued it, or it is forgotten."""
        try:
            record = await self._store.certificate(serial)
        except NotFound:
            return None
        if record.issuer != issuer:
            return None
        return Known(
            not_after=record.not_after,
            revoked_at=record.revoked_at,
            reason=record.reason or "unspecified",
        )

    def _status(self, serial: int, known: Known | None) -> Status:
        if known is None:
            return Unknown()
        revocation = self._state.revocations.get(serial)
        if revocation is not None:
            return RevokedEntry(serial, revocation.revoked_at, revocation.reason)
        if known.revoked_at is not None:
            return RevokedEntry(serial, known.revoked_at, known.reason)
        return Good()

    def _say(
        self, responder: ActiveResponder, certificate_id: CertificateID, status: Status
    ) -> Answer:
        now: datetime = self._clock.now().replace(microsecond=0)
        return Answer(
            certificate_id=certificate_id,
            status=status,
            this_update=now,
            next_update=response_end(now, self._validity_s, responder),
        )


def is_plain(request: OCSPRequest) -> bool:
    """Tell whether the answer may be one that was given before."""
    return request.nonce is None and len(request.certificate_ids) == 1


# Those who send no nonce send the same bytes each time.
@lru_cache(maxsize=4096)
def _parsed_again(data: bytes) -> OCSPRequest:
    return OCSPRequest.from_der(data)


def _parsed(data: bytes) -> OCSPRequest:
    """Read a request.

    Raises:
        LimitExceeded, InvalidInput: it is none.
    """
    if len(data) > _WORTH_KEEPING:
        return OCSPRequest.from_der(data)
    return _parsed_again(data)
