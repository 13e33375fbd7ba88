"""TLS objects and sockets of the standard library whose handshake ends with our verification.

OpenSSL checks the chain first and sends the alert that says what it lacks. What follows is
checked when its handshake is over and before any application byte is passed on.

In TLS 1.3 the client's handshake is over before the server has looked at the client's
certificate (RFC 8446, section 4.4.2.4 and figure 1): a client that is refused learns of
it when it reads.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Self

from legation.causes import Cause, Failure, cause_of
from legation.errors import LegationError, Unavailable
from legation.sdk.connections import ConnectionCut
from legation.sdk.model import Peer
from legation.sdk.peers import PeerRefused
from legation.sdk.tls.carriers import address_of, carried_from, end_all, note_caller
from legation.sdk.tls.presented import handshake_certificates

if TYPE_CHECKING:
    from legation.sdk.tls.contexts import Generation

_AGAIN = (ssl.SSLWantReadError, ssl.SSLWantWriteError)


class NoIdentity(ssl.SSLError, Unavailable):
    """The source has no identity or trust to shake hands with."""

    def __init__(self, message: str, remedy: str | None = None) -> None:
        Unavailable.__init__(self, message, remedy=remedy)
        self.errno, self.strerror = ssl.SSL_ERROR_SSL, message
        self.reason = "NO_IDENTITY"
        self.library = "LEGATION"

    @classmethod
    def because(cls, error: LegationError) -> Self:
        """Make one of what the source, or its use, led to."""
        return cls(error.message, error.remedy)

    __str__ = LegationError.__str__

    def __reduce__(self) -> tuple[type[Self], tuple[str, str | None]]:
        return type(self), (self.message, self.remedy)


class _Condemned:
    """Stands in for OpenSSL's object once the connection is cut: nothing passes any more."""

    def __init__(self, native: Any, error: ssl.SSLError) -> None:
        self._native = native
        self._error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, name)

    def refuse(self, *_: object) -> Any:
        raise self._error.with_traceback(None)

    read = write = do_handshake = shutdown = refuse

    def pending(self) -> int:
        return 0


class _Verifying:
    """What verified objects and sockets have in common."""

    peer: Peer | None = None
    _sslobj: Any
    context: Any
    server_side: bool
    # Ends connections whose peer is no longer accepted; from any thread.
    cut: ClassVar[Callable[..., None]]

    def _condemn(self, error: ssl.SSLError) -> None:
        """Let no byte pass any more; from any thread."""
        native = self._sslobj
        if native is not None and not isinstance(native, _Condemned):
            self._sslobj = _Condemned(native, error)

    def _verify(self) -> None:
        """Verify the peer of a handshake that OpenSSL has brought to its end.

        Raises:
            PeerRefused: it is not accepted; nothing passes any more.
        """
        generation: Generation = self.context
        verifier = generation.verifier
        native = self._sslobj
        try:
            if native.session_reused:
                # Sessions are never offered; one that is reused all the same proves nothing,
                # since no certificate was shown (RFC 8446, section 2.2).
                word = Failure(cause=Cause.NO_CLIENT_CERTIFICATE, detail="the session was resumed")
                raise verifier.refuse([word])
            verified = verifier.verify(
                native.getpeercert(True), lambda: handshake_certificates(native)[1:]
            )
            generation.connections.register(
                self, verified=verified, verifier=verifier, cut=type(self).cut
            )
            # A change between the two was seen by neither.
            failure = verifier.refused_by_source(verified)
            if failure is not None:
                raise verifier.refuse([failure], peer=verified.peer)
        except ssl.SSLError as error:
            self._condemn(error)
            raise
        except LegationError as error:
            refused = NoIdentity.because(error)
            self._condemn(refused)
            raise refused from None
        self.peer = verified.peer

    def _tell_seen(self, address: str) -> None:
        """Tell the source of a client that was let in."""
        source = self.context.verifier.source
        if self.peer is not None and hasattr(source, "seen"):
            source.seen(self.peer, address)

    def _report(self, error: ssl.SSLError) -> ssl.SSLError:
        """Tell of a handshake that OpenSSL refused; return the error to raise."""
        if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return error  # nobody was refused: the other end has gone
        words = getattr(error, "verify_message", None) or error.reason or "unknown"
        if "_ALERT_" in words:
            return error  # from the other end: it refuses us
        failure = Failure(cause=cause_of(words), detail=words.replace("_", " ").lower())
        refused: PeerRefused = self.context.verifier.refuse([failure], raw=words)
        if isinstance(error, ssl.SSLCertVerificationError):
            return refused
        return error


class VerifiedObject(_Verifying, ssl.SSLObject):
    """The TLS engine of one connection over memory, as event loops use it.

    Attributes:
        peer: the other end, from the end of the handshake on.
        carrier: gives what carries it, while that lives; see `legation.sdk.tls.carriers`.
        address: of the other end, where the protocol above has said what carries it.
        loop: the event loop that the handshake ran in.
        outgoing: what is to be sent; set by the context that made the object.
    """

    carrier: Callable[[], Any] | None = None
    address: str = ""
    loop: asyncio.AbstractEventLoop | None = None
    outgoing: ssl.MemoryBIO | None = None
    _failure: ssl.SSLError | None = None

    def do_handshake(self) -> None:
        """Shake hands and verify the peer.

        Raises:
            PeerRefused: the peer is not accepted.
            ssl.SSLError: the handshake failed, or has to wait for bytes.
        """
        if self._failure is not None:
            raise self._failure
        try:
            super().do_handshake()
        except _AGAIN:
            raise
        except ssl.SSLError as error:
            self._failure = self._report(error)
            if self.server_side and self.outgoing is not None and self.outgoing.pending:
                # The event loop drops the connection on any error before it has written the
                # alert that tells the client why. Asking for more input makes it write; the
                # client's next bytes, its close or the handshake's timeout end the connection.
                raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "alert pending") from None
            raise self._failure from None
        if self.peer is None:
            with suppress(RuntimeError):
                self.loop = asyncio.get_running_loop()
            note_caller(self)
            self._verify()
            if self.server_side and self.loop is not None:
                # By then the protocol above has said what carries it, if it does (`adopt`).
                self.loop.call_soon(self._seen)

    def _seen(self) -> None:
        self._tell_seen(self.address or carried_from(self.carrier))

    @staticmethod
    def cut(connections: Sequence["VerifiedObject"], cause: Cause) -> None:
        """End connections whose peer is no longer accepted; from any thread."""
        error = ConnectionCut(cause)
        for connection in connections:
            connection._condemn(error)  # noqa: SLF001 - a static method of the same class
        end_all(connections, error)


class VerifiedSocket(_Verifying, ssl.SSLSocket):
    """A TLS socket, blocking or not.

    Attributes:
        peer: the other end, from the end of the handshake on.
    """

    do_handshake_on_connect: bool  # set by `ssl`, and missing in its type stubs
    suppress_ragged_eofs: bool

    def do_handshake(self, block: bool = False) -> None:
        """Shake hands and verify the peer.

        Raises:
            PeerRefused: the peer is not accepted; the connection is shut down.
            ssl.SSLError: the handshake failed, or has to wait.
        """
        try:
            super().do_handshake(block)
            if self.peer is None:
                self._verify()
                if self.server_side:
                    self._tell_seen(address_of(self))
        except _AGAIN:
            raise
        except (PeerRefused, NoIdentity):
            _shut(self)
            raise
        except ssl.SSLError as error:
            raise self._report(error) from None

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002 - as `ssl` names it
        """Read; what `recv` and `recv_into` do.

        Raises:
            ConnectionCut: the connection was cut, before or while a thread waited here.
        """
        try:
            found = super().read(len, buffer)
        except OSError:
            self._refuse_if_cut()
            raise
        if not found:
            self._refuse_if_cut()
        return found

    def send(self, data: Any, flags: int = 0) -> int:
        """Write; what `sendall` does.

        Raises:
            ConnectionCut: the connection was cut, before or while a thread waited here.
        """
        try:
            return super().send(data, flags)
        except OSError:
            self._refuse_if_cut()
            raise

    def _refuse_if_cut(self) -> None:
        """Say why the socket has ended, where we have ended it.

        A thread that waits is woken by the end of the socket, or by a reset if the other end
        was quicker: which of them is a matter of time, and no word of what has happened.
        """
        if isinstance(self._sslobj, _Condemned):
            self._sslobj.refuse()

    def accept(self) -> tuple[Self, Any]:
        """Accept a connection, with the identity and trust that are in force by now."""
        plain, address = socket.socket.accept(self)
        wrapped = self.context.following.wrap_socket(
            plain,
            server_side=True,
            do_handshake_on_connect=self.do_handshake_on_connect,
            suppress_ragged_eofs=self.suppress_ragged_eofs,
        )
        return wrapped, address

    @property
    def session(self) -> ssl.SSLSession | None:
        """The TLS session. Setting it has no effect: sessions are never resumed."""
        return super().session

    @session.setter
    def session(self, session: ssl.SSLSession | None) -> None:
        del session

    @staticmethod
    def cut(connections: Sequence["VerifiedSocket"], cause: Cause) -> None:
        """End connections whose peer is no longer accepted; from any thread."""
        error = ConnectionCut(cause)
        for connection in connections:
            connection._condemn(error)  # noqa: SLF001 - a static method of the same class
            _shut(connection)


def _shut(sock: ssl.SSLSocket) -> None:
    """Shut the connection down; a thread that waits in a read or write wakes up.

    Not `SSLSocket.shutdown`, which takes the TLS object away under that thread's feet.
    """
    with suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
