"""Contexts of the standard library that follow a source.

What they hand out belongs to the generation of the source's view that is in force at that
moment: a context of OpenSSL can take a new certificate and cannot forget an authority, so
every view gets one of its own. What a library sets on a following context is passed over:
it can neither weaken the verification nor add an authority. ALPN is the exception.
"""

import os
import ssl
import threading
from collections.abc import Iterable, Sequence
from typing import Any, Final

from legation.clock import Clock
from legation.errors import LegationError, NotFound
from legation.pki import certificates_to_pem, private_key_to_pem
from legation.pki.verification import Purpose
from legation.sdk.authorize import Authorizer
from legation.sdk.connections import Connections, connections_of
from legation.sdk.model import X509SVID, Source, TrustView
from legation.sdk.peers import PeerVerifier
from legation.sdk.tls.connections import NoIdentity, VerifiedObject, VerifiedSocket

# `X509_V_FLAG_NO_CHECK_TIME`: `PeerVerifier` compares times, with the clock it was given.
_NO_CHECK_TIME: Final = 0x200000


class Generation(ssl.SSLContext):
    """What OpenSSL needs for one view of the source, and those that differ in lists alone.

    Attributes:
        view: the newest of them; None for a stand-in that no handshake gets through.
        verifier: judges peers.
        connections: where open connections are registered.
        following: the context that hands out generations.
    """

    view: TrustView | None
    verifier: PeerVerifier
    connections: Connections
    following: "SourceContext"


class SourceContext(ssl.SSLContext):
    """An `ssl.SSLContext` that follows a source. Made by `server_context` and `client_context`."""

    _verifier: PeerVerifier
    _connections: Connections
    _alpn: tuple[str, ...]
    _protocol: int
    _lock: threading.Lock
    _generation: Generation | None = None

    def _follow(
        self, verifier: PeerVerifier, connections: Connections, alpn: Iterable[str]
    ) -> None:
        self._verifier = verifier
        self._connections = connections
        self._protocol = self.protocol
        self._lock = threading.Lock()
        self._alpn = tuple(alpn)
        # Shown to libraries that ask; what counts is set on each generation.
        super().__setattr__("check_hostname", False)
        super().__setattr__("verify_mode", ssl.CERT_REQUIRED)
        super().__setattr__("minimum_version", ssl.TLSVersion.TLSv1_3)

    @property
    def source(self) -> Source:
        """What this context follows."""
        return self._verifier.source

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Make a TLS object with the identity and trust in force. `session` is passed over.

        Without an identity the object is made all the same and its handshake fails: event
        loops take errors from there, and lose a socket when they come from here.
        """
        del session
        failure = None
        try:
            generation = self.generation()
        except NoIdentity as error:
            generation, failure = self._stand_in(), error
        made = generation.wrap_bio(
            incoming, outgoing, server_side=server_side, server_hostname=server_hostname
        )
        assert isinstance(made, VerifiedObject)  # noqa: S101 - `sslobject_class`, below
        made.outgoing = outgoing
        made._failure = failure  # noqa: SLF001 - this context is its maker
        return made

    def wrap_socket(  # noqa: PLR0917 - the signature of the standard library
        self,
        sock: Any,
        server_side: bool = False,
        do_handshake_on_connect: bool = True,
        suppress_ragged_eofs: bool = True,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLSocket:
        """Wrap a socket with the identity and trust in force. `session` is passed over.

        Raises:
            NoIdentity: the source has none.
            PeerRefused: the socket is connected, and its peer is not accepted.
        """
        del session
        try:
            generation = self.generation()
        except NoIdentity:
            sock.close()
            raise
        return generation.wrap_socket(
            sock,
            server_side=server_side,
            do_handshake_on_connect=do_handshake_on_connect,
            suppress_ragged_eofs=suppress_ragged_eofs,
            server_hostname=server_hostname,
        )

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        """Set the application protocols to offer or choose from, from the next handshake on."""
        wanted = tuple(alpn_protocols)
        with self._lock:
            if wanted != self._alpn:
                self._alpn = wanted
                self._generation = None

    def load_verify_locations(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the source alone says whom to trust."""

    def load_default_certs(self, purpose: Any = ssl.Purpose.SERVER_AUTH) -> None:
        """Do nothing: the source alone says whom to trust."""

    def set_default_verify_paths(self) -> None:
        """Do nothing: the source alone says whom to trust."""

    def load_cert_chain(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the identity is the source's."""

    def generation(self) -> Generation:
        """Return what belongs to the view in force.

        Raises:
            NoIdentity: the source has no view, or OpenSSL cannot use it.
        """
        try:
            view = self._verifier.source.view()
        except LegationError as error:
            raise NoIdentity.because(error) from None
        current = self._generation
        if current is not None and current.view is view:
            return current
        with self._lock:
            current = self._generation
            if current is None or not _serves(current, view):
                current = self._build(view)
                self._generation = current
            current.view = view
            return current

    def _build(self, view: TrustView) -> Generation:
        try:
            made = self._bare()
            made.view = view
            authorities = [
                authority
                for bundle in view.bundles.values()
                for authority in bundle.x509_authorities
            ]
            if authorities:
                made.load_verify_locations(cadata=certificates_to_pem(authorities).decode())
            _load_identity(made, view.svid)
        except NotFound as error:  # a source of trust bundles alone
            if self._protocol == ssl.PROTOCOL_TLS_SERVER:
                raise NoIdentity.because(error) from None
        except ssl.SSLError as error:
            reason = error.reason or type(error).__name__
            words = f"OpenSSL cannot use the identity and trust of the source: {reason}"
            raise NoIdentity(words) from None
        return made

    def _stand_in(self) -> Generation:
        made = self._bare()
        made.view = None
        return made

    def _bare(self) -> Generation:
        made = Generation(self._protocol)
        made.verifier = self._verifier
        made.connections = self._connections
        made.following = self
        made.sslobject_class = VerifiedObject
        made.sslsocket_class = VerifiedSocket
        made.minimum_version = ssl.TLSVersion.TLSv1_3
        made.check_hostname = False
        made.verify_mode = ssl.CERT_REQUIRED
        # Every certificate of a trust bundle is an anchor, self-signed or not
        # (SPIFFE Trust Domain and Bundle, section 4.1.1).
        made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        made.verify_flags = ssl.VerifyFlags(made.verify_flags | _NO_CHECK_TIME)
        made.options |= ssl.OP_NO_TICKET
        if self._protocol == ssl.PROTOCOL_TLS_SERVER:
            # A resumed session shows no certificate: a revoked client would get in.
            made.num_tickets = 0
        if self._alpn:
            made.set_alpn_protocols(self._alpn)
        return made


def server_context(
    source: Source,
    *,
    authorize: Authorizer,
    alpn: Sequence[str] = (),
    clock: Clock | None = None,
) -> SourceContext:
    """Make a context for a server that demands a certificate of every client.

    TLS 1.3 only, no session tickets. Certificate, key and trust follow `source` under open
    connections; a client that is revoked is cut off.

    Args:
        source: identity, trust and revocations.
        authorize: whom to let in, for example `authorize_id(...)`.
        alpn: application protocols, the most wanted first, for example ``("h2", "http/1.1")``.
        clock: tells the time; None for the source's.
    """
    verifier = PeerVerifier(source, authorize=authorize, purpose=Purpose.CLIENT, clock=clock)
    context = SourceContext(ssl.PROTOCOL_TLS_SERVER)
    context._follow(verifier, connections_of(source), alpn)  # noqa: SLF001 - its only maker
    return context


def client_context(
    source: Source,
    *,
    authorize: Authorizer,
    alpn: Sequence[str] = (),
    dns_name: str | None = None,
    clock: Clock | None = None,
) -> SourceContext:
    """Make a context for a client that shows its certificate to servers that ask for it.

    The server is recognised by its SPIFFE ID, not by the host name that was dialled:
    `check_hostname` is off, and a library that compares names itself has to be told not to.

    Args:
        source: identity, trust and revocations.
        authorize: which servers to speak with.
        alpn: application protocols, the most wanted first.
        dns_name: expect an ordinary certificate for this host name, of an authority in the
            source's bundles, instead of an SVID.
        clock: tells the time; None for the source's.
    """
    verifier = PeerVerifier(
        source, authorize=authorize, purpose=Purpose.SERVER, dns_name=dns_name, clock=clock
    )
    context = SourceContext(ssl.PROTOCOL_TLS_CLIENT)
    context._follow(verifier, connections_of(source), alpn)  # noqa: SLF001 - its only maker
    return context


def _serves(generation: Generation, view: TrustView) -> bool:
    """Tell whether OpenSSL was told all that it needs for `view`: lists are not its business."""
    known = generation.view
    return known is not None and (
        known is view or (known.svids == view.svids and known.bundles == view.bundles)
    )


def _load_identity(context: ssl.SSLContext, svid: X509SVID) -> None:
    # `load_cert_chain` reads files only. A memory file keeps the key off the disk.
    descriptor = os.memfd_create("identity", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(private_key_to_pem(svid.private_key) + certificates_to_pem(svid.chain))
        file.flush()
        # A password of no characters: OpenSSL must not ask at the terminal for one.
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password="")
