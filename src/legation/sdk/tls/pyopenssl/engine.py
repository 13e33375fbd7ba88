"""What OpenSSL is told for each view of a source, and what it asks during a handshake.

Unlike the standard library, pyOpenSSL asks about every certificate while the handshake is
still going on, so a peer that is refused is told so by an alert.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Final

from OpenSSL import SSL, crypto

from legation.causes import Cause, Failure, cause_of
from legation.clock import Clock
from legation.errors import InvalidInput, LegationError, VerificationError
from legation.pki.ocsp import (
    CertificateID,
    StatusRequest,
    check_response,
    must_staple,
    says_nothing,
)
from legation.pki.verification import Purpose
from legation.sdk.authorize import Authorizer
from legation.sdk.connections import Cut, connections_of
from legation.sdk.model import X509SVID, Peer, Source, TrustView
from legation.sdk.peers import PeerRefused, PeerVerifier, Verified, clock_of
from legation.sdk.tls.carriers import carried_from
from legation.sdk.tls.connections import NoIdentity
from legation.sdk.tls.pyopenssl.generation import Generation, der_of, store_of
from legation.sdk.tls.pyopenssl.outcomes import TLSFailure, words_of

Staple = Callable[[X509SVID], bytes | None]
"""Gives the OCSP response for the identity in use, DER, or None. Called for each handshake."""

_NO_CHECK_TIME: Final = 0x200000  # `X509_V_FLAG_NO_CHECK_TIME`; `PeerVerifier` compares times
# An own status request in each certificate's place, by the hash that the answer names it with.
_HASHES: Final = ("sha256", "sha1")


class Handshake:
    """One handshake: what it is part of, and what came of it.

    Attributes:
        engine: whose.
        generation: what OpenSSL was told.
        view: the view that it is made with.
        verified: the peer, once it was verified.
        refused: why it was not accepted.
    """

    __slots__ = ("_above", "engine", "generation", "refused", "verified", "view")

    def __init__(self, engine: "Engine", generation: Generation) -> None:
        self.engine = engine
        self.view = generation.view
        self.generation = generation
        self.verified: Verified | None = None
        self.refused: PeerRefused | None = None
        self._above: list[crypto.X509] = []

    def judge(self, certificate: crypto.X509, error: int, depth: int, trusted: int) -> bool:
        """Answer OpenSSL, which goes from the authority down to the leaf."""
        if not trusted:
            words = _words(error)
            failure = Failure(cause=cause_of(words), detail=words)
            self.refused = self.engine.verifier.refuse([failure], raw=words)
            return False
        if depth:
            self._above.append(certificate)
            return True
        try:
            self.verified = self.engine.verifier.verify(der_of(certificate), self._rest)
        except PeerRefused as refused:
            self.refused = refused
            return False
        if len(self._above) > 1:
            self.generation.learn(self.verified.issuer, self._above[:-1], self.engine.source)
        return True

    def judge_staple(self, data: bytes) -> bool:
        """Answer OpenSSL, which has received a stapled OCSP response, or none."""
        if self.verified is None:
            return False
        try:
            self.engine.check_staple(self.verified, data)
        except VerificationError as error:
            self.refused = self.engine.verifier.refuse(error.failures, peer=self.verified.peer)
            return False
        return True

    def failure(self, error: SSL.Error) -> Exception:
        """Return the error for a handshake that OpenSSL gave up with `error`, and tell of it."""
        if self.refused is not None:
            return self.refused
        words = words_of(error)
        failure = TLSFailure(words)
        if " alert " not in words:  # an alert came from the other end: it refuses us
            self.engine.verifier.refuse([Failure(cause=failure.cause, detail=words)], raw=words)
        return failure

    def admit(self, connection: object, cut: Cut) -> Peer:
        """Register a connection whose handshake is over, and return its peer.

        Args:
            connection: what is registered.
            cut: how it is ended.

        Raises:
            PeerRefused: it is not accepted after all. The source has been told.
        """
        verifier, verified = self.engine.verifier, self.verified
        if verified is None:
            # A handshake without a certificate: only a resumed session has none.
            detail = "no certificate was shown"
            raise verifier.refuse([Failure(cause=Cause.NO_CLIENT_CERTIFICATE, detail=detail)])
        self.engine.connections.register(connection, verified=verified, verifier=verifier, cut=cut)
        # A change between verification and registration was seen by neither.
        objection = verifier.refused_by_source(verified)
        if objection is not None:
            raise verifier.refuse([objection], peer=verified.peer)
        return verified.peer

    def _rest(self) -> list[bytes]:
        return self.generation.complete([der_of(each) for each in reversed(self._above)])


class Engine(ABC):
    """TLS 1.3 by OpenSSL's newest, following a source: common part of servers and clients.

    Attributes:
        source: identity, trust and revocations.
        verifier: judges peers.
        connections: where open connections are registered.
        server_side: whether this end is the server.
    """

    server_side: bool

    def __init__(
        self,
        source: Source,
        *,
        authorize: Authorizer,
        alpn: Sequence[str],
        dns_name: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        purpose = Purpose.CLIENT if self.server_side else Purpose.SERVER
        self._clock = clock or clock_of(source)
        self.verifier = PeerVerifier(
            source, authorize=authorize, purpose=purpose, dns_name=dns_name, clock=self._clock
        )
        self.connections = connections_of(source)
        self.source = source
        self._alpn = [name.encode("ascii") for name in alpn]
        self._lock = threading.Lock()
        self._current: Generation | None = None

    def tell_seen(self, peer: Peer, transport: Any) -> None:
        """Tell the source of a client that was let in."""
        if self.server_side and hasattr(self.source, "seen"):
            self.source.seen(peer, carried_from(lambda: transport))

    def begin(self) -> tuple[SSL.Connection, Handshake]:
        """Make the connection and state of a new handshake, with what is in force.

        Raises:
            NoIdentity: the source has none.
        """
        try:
            view = self.source.view()
        except LegationError as error:
            raise NoIdentity.because(error) from None
        at, current = self._clock.now(), self._current
        if current is None or not current.serves(view, at):
            with self._lock:
                current = self._current
                if current is None or not current.serves(view, at):
                    current = self._current = Generation(view, self._build(view))
        connection = SSL.Connection(current.context, None)
        handshake = Handshake(self, current)
        connection.set_app_data(handshake)
        if self.server_side:
            connection.set_accept_state()
        else:
            connection.set_connect_state()
        return connection, handshake

    def check_staple(self, verified: Verified, data: bytes) -> None:  # noqa: B027 - nothing is an answer
        """Check a stapled OCSP response; engines that ask for none have nothing to check."""

    def _build(self, view: TrustView) -> SSL.Context:
        if not view.svids and self.server_side:
            raise NoIdentity("this source has trust bundles, and no identity")
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        # No session is ever resumed: a resumed one shows no certificate.
        context.set_options(SSL.OP_NO_TICKET)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _on_certificate)
        store = store_of(context)
        # Every certificate of a trust bundle is an anchor, self-signed or not
        # (SPIFFE Trust Domain and Bundle, section 4.1.1).
        store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN | _NO_CHECK_TIME)
        try:
            for bundle in view.bundles.values():
                for authority in bundle.x509_authorities:
                    store.add_cert(crypto.X509.from_cryptography(authority))
            if view.svids:
                leaf, *rest = view.svid.chain
                context.use_certificate(leaf)
                context.use_privatekey(view.svid.private_key)  # type: ignore[arg-type]
                for certificate in rest:
                    context.add_extra_chain_cert(certificate)
        except (SSL.Error, crypto.Error, TypeError) as error:
            kind = type(error).__name__
            words = f"OpenSSL cannot use the identity and trust of the source: {kind}"
            raise NoIdentity(words) from None
        self._prepare(context)
        return context

    @abstractmethod
    def _prepare(self, context: SSL.Context) -> None:
        """Set what is particular to a side."""


class ServerEngine(Engine):
    """The server's side: demands a certificate of every client."""

    server_side = True

    def __init__(
        self,
        source: Source,
        *,
        authorize: Authorizer,
        alpn: Sequence[str] = (),
        staple: Staple | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Set up.

        Args:
            source: identity, trust and revocations.
            authorize: whom to let in.
            alpn: application protocols, the most wanted first.
            staple: gives the OCSP response to staple; None for the source's own way, which
                an agent supplies with fresh ones. One that is not about the certificate in use
                is dropped by OpenSSL without a word.
            clock: tells the time; None for the source's.
        """
        super().__init__(source, authorize=authorize, alpn=alpn, clock=clock)
        self._staple: Staple | None = staple or getattr(source, "staple", None)

    def _prepare(self, context: SSL.Context) -> None:
        if self._alpn:
            context.set_alpn_select_callback(self._choose)
        if self._staple is not None:
            context.set_ocsp_server_callback(_on_staple_wanted, self._staple)

    def _choose(self, connection: SSL.Connection, offered: list[bytes]) -> Any:
        del connection
        return next((name for name in self._alpn if name in offered), SSL.NO_OVERLAPPING_PROTOCOLS)


class ClientEngine(Engine):
    """The client's side: shows its certificate to servers that ask for it."""

    server_side = False

    def __init__(
        self,
        source: Source,
        *,
        authorize: Authorizer,
        alpn: Sequence[str] = (),
        dns_name: str | None = None,
        server_name: str | None = None,
        require_staple: bool = False,
        clock: Clock | None = None,
    ) -> None:
        """Set up.

        Args:
            source: identity, trust and revocations.
            authorize: which servers to speak with.
            alpn: application protocols, the most wanted first.
            dns_name: expect an ordinary certificate for this host name instead of an SVID.
            server_name: which of its names the server is called by (SNI), or None.
            require_staple: refuse every server without a stapled OCSP response, not only
                those whose certificates say "must staple" (RFC 7633).
            clock: tells the time; None for the source's.
        """
        super().__init__(source, authorize=authorize, alpn=alpn, dns_name=dns_name, clock=clock)
        self._server_name = (server_name or dns_name or "").encode("idna") or None
        self._require_staple = require_staple

    def begin(self) -> tuple[SSL.Connection, Handshake]:
        """Make the connection and state of a new handshake; see `Engine.begin`."""
        connection, handshake = super().begin()
        connection.request_ocsp()
        if self._server_name is not None:
            connection.set_tlsext_host_name(self._server_name)
        return connection, handshake

    def check_staple(self, verified: Verified, data: bytes) -> None:
        """Check the stapled OCSP response of a server.

        Raises:
            VerificationError: it does not clear the server, or is missing and must be there.
        """
        if not data or says_nothing(data):
            if self._require_staple or must_staple(verified.certificate):
                detail = "the server must staple an OCSP response, and did not"
                raise VerificationError(
                    [Failure(cause=Cause.REVOCATION_DATA_MISSING, detail=detail)]
                )
            return
        at, found = self._clock.now(), None
        for name in _HASHES:
            wanted = CertificateID.of(verified.issuer, verified.peer.serial, hash_name=name)
            try:
                check_response(
                    data,
                    request=StatusRequest(certificate_id=wanted),
                    issuer_certificate=verified.issuer,
                    at=at,
                )
            except InvalidInput as error:
                found = VerificationError(
                    [Failure(cause=Cause.REVOCATION_DATA_MISSING, detail=error.message)]
                )
            except VerificationError as error:
                # The failure that does not depend on the hash is the shorter report.
                if found is None or len(error.failures) < len(found.failures):
                    found = error
            else:
                return
        if found is not None:
            raise found

    def _prepare(self, context: SSL.Context) -> None:
        if self._alpn:
            context.set_alpn_protos(self._alpn)
        context.set_ocsp_client_callback(_on_staple)


def _on_certificate(
    connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, trusted: int
) -> bool:
    handshake: Handshake = connection.get_app_data()
    return handshake.judge(certificate, error, depth, trusted)


def _on_staple(connection: SSL.Connection, data: bytes, _: object) -> bool:
    handshake: Handshake = connection.get_app_data()
    return handshake.judge_staple(data)


def _on_staple_wanted(connection: SSL.Connection, staple: Any) -> bytes:
    handshake: Handshake = connection.get_app_data()
    return staple(handshake.view.svid) or b""


def _words(error: int) -> str:
    """Return OpenSSL's phrase for a verification error; pyOpenSSL passes on the number alone."""
    return _PHRASES.get(error, f"verification error {error}")


# `openssl verify -help`, x509_vfy.h: the numbers are part of OpenSSL's interface.
_PHRASES: Final = {
    2: "unable to get issuer certificate",
    7: "certificate signature failure",
    18: "self-signed certificate",
    19: "self-signed certificate in certificate chain",
    20: "unable to get local issuer certificate",
    21: "unable to verify the first certificate",
    26: "unsuitable certificate purpose",
    34: "unhandled critical extension",
    47: "permitted subtree violation",
    48: "excluded subtree violation",
    66: "ee key too small",
    67: "ca key too small",
    68: "ca md too weak",
}
