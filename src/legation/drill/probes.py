"""Tries at one target: as whom, in which protocol, on which connection."""

import asyncio
import ssl

from legation.drill.connection import (
    ConnectionAttemptFailed,
    Identity,
    TLSConnection,
    client_context,
)
from legation.drill.exchange import Conversation, closed
from legation.drill.outcomes import Manner, Sight, Treatment, treatment
from legation.drill.targets import Protocol, Target

_NOT_SPOKEN = "protocol not spoken"
# RFC 7301, section 3.2: what a strict server says to a protocol that it lacks.
_NO_PROTOCOL = "no application protocol"


class Prober:
    """Tries at one target.

    Args:
        target: where.
        bundle_pem: the roots that the target's certificate must lead to.
        path: what to ask for in HTTP.

    Attributes:
        target: where.
        shown: the SPIFFE ID that the target has shown last.
    """

    def __init__(self, target: Target, *, bundle_pem: str, path: str) -> None:
        self.target = target
        self.shown = ""
        self._bundle_pem = bundle_pem
        self._path = path
        self._contexts: dict[tuple[int, Protocol], ssl.SSLContext] = {}
        self._identities: list[Identity | None] = []  # keeps the ids in the keys above unique

    async def discover(self, identity: Identity) -> dict[Protocol, Sight]:
        """Return what a good decoy sees in each protocol that the target speaks.

        If it is not let in at all, there is one protocol, with what was seen instead.
        """
        if self.target.protocol is not None:
            return {self.target.protocol: await self.fresh(identity, self.target.protocol)}
        seen: dict[Protocol, Sight] = {}
        for protocol in (Protocol.HTTP1, Protocol.HTTP2):
            sight = await self.fresh(identity, protocol)
            if sight.words == _NOT_SPOKEN:
                continue
            seen[protocol] = sight
            if treatment(sight) is not Treatment.LET_IN:
                return {protocol: sight}
        return seen or {Protocol.TCP: await self.fresh(identity, Protocol.TCP)}

    async def fresh(
        self,
        identity: Identity | None,
        protocol: Protocol,
        *,
        session: ssl.SSLSession | None = None,
    ) -> Sight:
        """Try on a new connection, from handshake to answer."""
        sight, conversation = await self.converse(identity, protocol, session=session)
        if conversation is not None:
            conversation.connection.close()
        return sight

    async def session(self, identity: Identity, protocol: Protocol) -> ssl.SSLSession | None:
        """Return a session that the target really resumes, or None."""
        _, first = await self.converse(identity, protocol)
        if first is None:
            return None
        session = first.connection.session
        first.connection.close()
        if session is None:
            return None
        _, second = await self.converse(identity, protocol, session=session)
        if second is None:
            return None
        second.connection.close()
        return session if second.connection.resumed else None

    async def converse(
        self,
        identity: Identity | None,
        protocol: Protocol,
        *,
        session: ssl.SSLSession | None = None,
    ) -> tuple[Sight, Conversation | None]:
        """Connect and ask once; return what was seen, and the conversation if it can go on."""
        connection: TLSConnection | None = None
        clock = asyncio.get_running_loop().time
        try:
            begun = clock()
            context = self._context(identity, protocol)
            connection = await TLSConnection.open(self.target, context, session=session)
            if (objection := self._objection(connection, protocol)) is not None:
                connection.close()
                return objection, None
            conversation = Conversation(
                connection,
                protocol,
                hello=self.target.hello,
                path=self._path,
                handshake_s=clock() - begun,
            )
            sight = await conversation.ask()
        except BaseException as error:
            if connection is not None:
                connection.close()
            if isinstance(error, OSError):
                return sight_of(error), None
            raise
        if sight.manner is Manner.CLOSED or sight.last:
            connection.close()
            return sight, None
        return sight, conversation

    def _objection(self, connection: TLSConnection, protocol: Protocol) -> Sight | None:
        self.shown = connection.spiffe_id
        wanted = self.target.spiffe_id
        if wanted is not None and self.shown != wanted:
            words = f"shows {self.shown or 'no SPIFFE ID'}, not {wanted}"
            return Sight(manner=Manner.UNUSABLE, words=words)
        if self.target.protocol is None and protocol.alpn != connection.alpn:
            return Sight(manner=Manner.UNUSABLE, words=_NOT_SPOKEN)
        return None

    def _context(self, identity: Identity | None, protocol: Protocol) -> ssl.SSLContext:
        # One context for each: a session is only good in the context that it comes from.
        key = (id(identity), protocol)
        if key not in self._contexts:
            alpn = (protocol.alpn,) if protocol.alpn else ()
            self._contexts[key] = client_context(identity, bundle_pem=self._bundle_pem, alpn=alpn)
            self._identities.append(identity)
        return self._contexts[key]


class Held:
    """A connection that is kept open and used again and again.

    A peer may end one for reasons of its own: after so many requests, or for want of use. So an
    end counts as a refusal only if the peer does not let us in again at once.

    Attributes:
        cuts: how often it ended without notice.
    """

    def __init__(self, prober: Prober, identity: Identity, protocol: Protocol) -> None:
        self._prober = prober
        self._identity = identity
        self._protocol = protocol
        self._conversation: Conversation | None = None
        self.cuts = 0

    @property
    def is_open(self) -> bool:
        """Tell whether there is a connection to go on with."""
        return self._conversation is not None

    async def ask(self) -> Sight:
        """Ask once, on the open connection if there is one."""
        if self._conversation is None:
            return await self._reopened()
        try:
            sight = await self._conversation.ask()
        except OSError as error:
            sight = sight_of(error)
        ended = sight.manner in {Manner.CLOSED, Manner.ALERT, Manner.UNREACHABLE}
        if ended or sight.last:
            self.close()
        if not ended:
            return sight
        self.cuts += 1
        again = await self._reopened()
        return sight if treatment(again) is Treatment.REFUSED else again

    def close(self) -> None:
        """Close without waiting."""
        if self._conversation is not None:
            self._conversation.connection.close()
        self._conversation = None

    async def _reopened(self) -> Sight:
        sight, self._conversation = await self._prober.converse(self._identity, self._protocol)
        return sight


def sight_of(error: OSError) -> Sight:
    """Say what an error of TCP or TLS is."""
    manner, words = Manner.UNREACHABLE, str(error) or type(error).__name__
    match error:
        case ConnectionAttemptFailed():
            pass
        case TimeoutError():
            words = "no answer in time"
        case ssl.SSLCertVerificationError():
            manner = Manner.UNUSABLE
            words = f"its certificate is not accepted: {error.verify_message}"
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            return closed()
        case ssl.SSLError():
            return _sight_of_tls((error.reason or words).lower().replace("_", " "))
        case ConnectionError():
            manner, words = Manner.CLOSED, "connection reset by the peer"
    return Sight(manner=manner, words=words)


def _sight_of_tls(words: str) -> Sight:
    if _NO_PROTOCOL in words:
        return Sight(manner=Manner.UNUSABLE, words=_NOT_SPOKEN)
    if " alert " in words:
        # "sslv3 alert certificate revoked": the library's prefix says nothing about the version.
        return Sight(manner=Manner.ALERT, words=f"alert: {words.partition(' alert ')[2]}")
    return Sight(manner=Manner.UNUSABLE, words=f"no TLS: {words}")
