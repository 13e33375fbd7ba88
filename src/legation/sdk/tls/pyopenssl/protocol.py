"""TLS over an asyncio transport: encrypted bytes below, plaintext above.

::

    HANDSHAKE --verified--> OPEN --close()--> CLOSING --goodbye or timeout--> CLOSED
        |                     |                                                 ^
        +-------------------- abort, cut, error, end of the transport ----------+

In OPEN each direction may end by itself: `write_eof` ends ours, the peer's close_notify
(RFC 8446, section 6.1) ends its own. An end of the transport without close_notify is an
error, since an attacker can cause it to cut a message short.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from OpenSSL import SSL

from legation.causes import Cause
from legation.sdk.connections import ConnectionCut
from legation.sdk.model import Peer
from legation.sdk.peers import PeerRefused
from legation.sdk.tls.connections import NoIdentity
from legation.sdk.tls.pyopenssl.application import Application
from legation.sdk.tls.pyopenssl.engine import Engine
from legation.sdk.tls.pyopenssl.outcomes import State, Timeouts, cut_short, failure_of, tell
from legation.sdk.tls.pyopenssl.outgoing import RECORD, Outgoing
from legation.sdk.tls.pyopenssl.records import RecordBoundaries
from legation.sdk.tls.pyopenssl.transport import TLSInfo, TLSTransport

_log = logging.getLogger(__name__)
_TICKETS: Final = 512  # more than OpenSSL's stateful ones take, which are 158 bytes

ProtocolFactory = Callable[[], asyncio.BaseProtocol]


class TLSProtocol(asyncio.Protocol):
    """Speaks TLS with the transport below, and plaintext with the application.

    Everything happens in the event loop's thread, except `cut`.

    Attributes:
        application: what is above; set when the handshake is over.
        transport: what it was given.
        peer: the other end, from the end of the handshake on.
        reading_paused: whether the application wants no data now.
    """

    application: Application
    transport: TLSTransport
    peer: Peer | None = None

    def __init__(
        self,
        engine: Engine,
        factory: ProtocolFactory,
        *,
        timeouts: Timeouts,
        opened: "asyncio.Future[None] | None" = None,
    ) -> None:
        """Set up: the application is made by `factory` once the peer is verified.

        `opened` is told of the end of the handshake, whichever it is.
        """
        self._engine = engine
        self._factory = factory
        self._timeouts = timeouts
        self._opened = opened
        self._state = State.HANDSHAKE
        self._below: Any = None
        self._timer: asyncio.TimerHandle | None = None
        self._error: Exception | None = None
        self._told_end = False  # the application knows that no more comes
        self._boundaries = RecordBoundaries()
        self._behind = False  # there may be more to decrypt than the last record
        self._wrote_eof = self._below_ended = False
        self.reading_paused = self._writing_paused = self._resuming = False

    # --- the transport below ---------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        self._below = transport
        self._loop = asyncio.get_running_loop()
        try:
            self._tls, self._handshake = self._engine.begin()
        except NoIdentity as error:
            _log.warning("a connection was closed: %s", error)
            self._fail(error)
            return
        self._outgoing = Outgoing(self._tls, transport)
        self._timer = self._loop.call_later(self._timeouts.handshake, self._late)
        if not self._engine.server_side:
            self._shake_hands()

    def data_received(self, data: bytes) -> None:
        """Take encrypted bytes."""
        if self._state is State.CLOSED:
            return
        one = self._boundaries.is_one_record(data)
        self._tls.bio_write(data)
        if self._state is State.HANDSHAKE:
            self._shake_hands()
        else:
            self._read(one=one)

    def eof_received(self) -> bool:
        """Take the end of the transport. Returns True: closing is up to `_read`."""
        if self._state is State.CLOSED:
            return False
        self._below_ended = True
        if self._state is State.HANDSHAKE:
            self._fail(ConnectionResetError("the peer closed the connection in the handshake"))
        else:
            self._tls.bio_shutdown()
            self._read()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Take that the transport below is closed."""
        self._state = State.CLOSED
        self._stop_timer()
        error = self._error or exc
        verified = getattr(getattr(self, "_handshake", None), "verified", None)
        if self.peer is not None and verified is not None:
            self._engine.connections.discard(
                self, verified=verified, verifier=self._engine.verifier
            )
            self._error = error
            self.application.protocol.connection_lost(error)
        else:
            tell(self._opened, error or ConnectionResetError("closed in the handshake"))

    def pause_writing(self) -> None:
        """Pass on that too much waits to be sent."""
        self._writing_paused = True
        if self.peer is not None:
            self.application.protocol.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that there is room again."""
        self._writing_paused = False
        if self.peer is not None:
            self.application.protocol.resume_writing()

    # --- handshake -------------------------------------------------------------------------

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except SSL.WantReadError:
            self._outgoing.flush()
            return
        except SSL.Error as error:
            self._outgoing.flush()  # the alert that tells the peer
            self._fail(self._handshake.failure(error), politely=True)
            return
        if self._engine.server_side:
            # Two session tickets, which nobody can use. pyOpenSSL cannot keep OpenSSL from
            # making them; they travel with the first answer rather than in a packet of their own.
            self._outgoing.owe(_TICKETS)
        else:
            self._outgoing.flush()
        try:
            peer = self._handshake.admit(self, TLSProtocol.cut)
        except PeerRefused as refused:
            self._fail(refused)
            return
        self._open(peer)

    def _late(self) -> None:
        seconds = self._timeouts.handshake
        self._fail(TimeoutError(f"the handshake was not over after {seconds:g} s"))

    def _open(self, peer: Peer) -> None:
        self._stop_timer()
        self._state = State.OPEN
        self.application = Application(self._factory())
        self.peer = peer
        self._engine.tell_seen(peer, self._below)
        self.transport = TLSTransport(self, self._below, TLSInfo(self._tls, peer))
        self.application.protocol.connection_made(self.transport)
        tell(self._opened, None)
        if self._writing_paused:
            self.application.protocol.pause_writing()
        # Data may have come with the last flight of the handshake.
        self._read(answer=False)

    # --- reading ---------------------------------------------------------------------------

    def _read(self, *, one: bool = False, answer: bool = True) -> None:
        """Deliver what can be decrypted, and see what came at its end.

        `one` says that one whole record has arrived: then more is not asked for in vain.
        `answer` says that a message to OpenSSL may have come.
        """
        receive, delivered = self._tls.recv, False
        try:
            while self._error is None and self._state is not State.CLOSED:
                if self._state is State.OPEN and self.reading_paused:
                    self._behind = True
                    return
                data = receive(RECORD)
                if self._state is State.OPEN:
                    self.application.deliver(data)
                    if one and not self._behind:
                        return
                    delivered = True
        except SSL.WantReadError:
            self._behind = False
            if answer and not delivered:
                # A message to OpenSSL itself. Its answer may wait for the next data to be
                # sent (RFC 8446, section 4.6.3), but not where none may ever be.
                self._outgoing.flush()
        except SSL.ZeroReturnError:
            self._peer_ended()
        except SSL.SysCallError:
            self._truncated()
        except SSL.Error as error:
            if self._below_ended and not error.args[0]:
                self._truncated()
                return
            self._outgoing.flush()
            self._fail(failure_of(error), politely=True)

    def _peer_ended(self) -> None:
        """The peer said goodbye: nothing more comes from it."""
        if self._state is State.CLOSING or (self._wrote_eof and self._told_end):
            self._finish()
        elif self._state is State.OPEN and not self._told_end:
            self._told_end = True
            keep_open = self.application.ended()
            if self._wrote_eof or not keep_open:
                self.close()

    def _truncated(self) -> None:
        """The transport ended, and the peer had not said that it would."""
        if self._state is State.CLOSING or self._told_end:
            self._finish()
        else:
            self._fail(cut_short())

    def pause(self) -> None:
        """Deliver no data until `resume`; and take none, so that the peer has to wait."""
        if not self.reading_paused and not self.is_closing:
            self.reading_paused = True
            self._below.pause_reading()

    def resume(self) -> None:
        """Deliver data again: first what is here already."""
        if not self.reading_paused or self.is_closing:
            return
        self.reading_paused = False
        self._below.resume_reading()
        if not self._resuming:
            self._resuming = True
            self._loop.call_soon(self._resumed)

    def _resumed(self) -> None:
        self._resuming = False
        if self._state is State.CLOSED:
            return
        try:
            self._read()
        except Exception as error:
            _log.exception("a connection ends, because its protocol failed")
            self._fail(error)

    # --- writing ---------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send."""
        if self._wrote_eof:
            raise RuntimeError("cannot write after write_eof()")
        if self._state is not State.OPEN or self._error is not None or not data:
            return
        try:
            self._outgoing.send(data)
        except SSL.Error as error:
            self._fail(failure_of(error))

    def write_eof(self) -> None:
        """Say that nothing more comes from this end."""
        if not self._wrote_eof and self._state is State.OPEN:
            self._wrote_eof = True
            self._outgoing.say_goodbye()
            if self._told_end:
                self.close()

    # --- ending ----------------------------------------------------------------------------

    @property
    def is_closing(self) -> bool:
        """Whether the connection is ending or has ended."""
        return self._state in {State.CLOSING, State.CLOSED} or self._error is not None

    def close(self) -> None:
        """Send what waits, say goodbye, and wait for the peer's goodbye for a while."""
        if self._state is not State.OPEN or self._error is not None:
            return
        self._state = State.CLOSING
        if not self._wrote_eof:
            self._outgoing.say_goodbye()
        if self._told_end or self._below_ended:
            self._finish()
            return
        self._timer = self._loop.call_later(self._timeouts.shutdown, self._below.abort)
        if self.reading_paused:
            self.reading_paused = False
            self._below.resume_reading()
        # Its goodbye may be here already, behind data that nobody wants any more.
        self._loop.call_soon(self._resumed)

    def _finish(self) -> None:
        """Close the transport below, once it has sent what waits; `_timer` bounds that."""
        if self._state is State.CLOSED:
            return
        self._state = State.CLOSING
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeouts.shutdown, self._below.abort)
        self._below.close()

    def abort(self, error: Exception | None) -> None:
        """Close at once."""
        if self._state is not State.CLOSED:
            self._fail(error)

    def _fail(self, error: Exception | None, *, politely: bool = False) -> None:
        """End the connection for a reason, which the application or the caller is told.

        `politely` lets what waits be sent first: an alert.
        """
        if self._error is None:
            self._error = error
        if self._state is State.HANDSHAKE and error is not None:
            tell(self._opened, error)
        self._state = State.CLOSED
        self._stop_timer()
        if politely:
            self._timer = self._loop.call_later(self._timeouts.shutdown, self._below.abort)
            self._below.close()
        else:
            self._below.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @staticmethod
    def cut(connections: Sequence["TLSProtocol"], cause: Cause) -> None:
        """End connections whose peer is no longer accepted; from any thread."""
        for connection in connections:
            error = ConnectionCut(cause)
            # At once, whatever the loop is doing: from here on nothing is read or written.
            connection._error = error  # noqa: SLF001 - a static method of the same class
            try:
                connection._loop.call_soon_threadsafe(connection.abort, error)  # noqa: SLF001
            except RuntimeError:
                _log.debug("the event loop of a connection is closed")
