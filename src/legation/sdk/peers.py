"""Verifying the other end of a connection.

Every handshake takes the same steps, whichever TLS library shook hands:

1. The chain is verified against the source's bundles (`legation.pki.verify_svid`). The same
   leaf comes again and again, so what was found is kept until the source's bundles change, or
   a list names one of its issuers.
2. The certificate is valid now.
3. The source does not refuse it: revoked, banned, or revocation data too old.
4. The authorizer lets it in.

Steps 2 to 4 are never kept. What is refused is counted, logged and told to the source.
"""

import logging
import ssl
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias

from cryptography import x509

from legation.causes import Cause, Failure
from legation.clock import Clock, SystemClock
from legation.errors import InvalidInput, NotPermitted, VerificationError
from legation.pki.crl import RevocationList
from legation.pki.encoding import certificate_from_der
from legation.pki.parts import UNREADABLE
from legation.pki.verification import (
    Purpose,
    VerifiedCertificate,
    verify_certificate,
    verify_svid,
)
from legation.sdk.authorize import Authorizer
from legation.sdk.model import Peer, Refusal, Source, TrustView

MAX_KEPT: Final = 4096
_MAX_RAW: Final = 200
_log = logging.getLogger(__name__)


class PeerRefused(ssl.SSLCertVerificationError, VerificationError):
    """The peer was not accepted.

    It is an error of TLS, so that servers and clients that know nothing of Legation treat
    it as what it is, and a VerificationError for those that ask which check failed.

    Attributes:
        cause: the word for it, that of the first failure.
        peer: SPIFFE ID as far as it is known, else empty.
    """

    def __init__(self, failures: Iterable[Failure], *, peer: str = "") -> None:
        VerificationError.__init__(self, failures)
        self.cause = self.failures[0].cause
        self.peer = peer
        # What `ssl` sets on its own errors, and `asyncio` and clients print.
        self.reason = self.cause.upper()
        self.library = "LEGATION"
        self.verify_code = 0
        self.verify_message = self.message
        self.errno, self.strerror = ssl.SSL_ERROR_SSL, self.message

    __str__ = VerificationError.__str__

    def __reduce__(self) -> tuple[Callable[..., "PeerRefused"], tuple[object, ...]]:
        return _rebuild, (self.failures, self.peer)


def _rebuild(failures: tuple[Failure, ...], peer: str) -> PeerRefused:
    return PeerRefused(failures, peer=peer)


def clock_of(source: Source) -> Clock:
    """Return the clock that a source goes by; the machine's, if it does not say."""
    clock: Clock | None = getattr(source, "clock", None)
    return clock or SystemClock()


class Verified(NamedTuple):
    """A peer whose chain is in order.

    Attributes:
        peer: who it is.
        not_before: from when its path counts.
        issuer: the certificate next to the leaf on that path.
        certificate: the leaf.
    """

    peer: Peer
    not_before: datetime
    issuer: x509.Certificate
    certificate: x509.Certificate


_Path: TypeAlias = tuple[x509.Certificate, ...]
_Kept: TypeAlias = dict[bytes, tuple[Verified, _Path]]  # with the issuers, up to the authority


class PeerVerifier:
    """Verifies the peers of one context. Safe to share between threads."""

    def __init__(
        self,
        source: Source,
        *,
        authorize: Authorizer,
        purpose: Purpose,
        dns_name: str | None = None,
        clock: Clock | None = None,
        max_kept: int = MAX_KEPT,
    ) -> None:
        """Set up.

        Args:
            source: bundles and revocations, and who is told of refusals.
            authorize: whom to let in.
            purpose: what peers use their certificates for.
            dns_name: accept an ordinary certificate for this host name, by any authority of
                the source's bundles, instead of an SVID. Its peer has the trust domain's own
                SPIFFE ID, which has no path.
            clock: tells the time; None for the source's.
            max_kept: how many verified chains are kept.
        """
        self.source = source
        self._authorize = authorize
        self._purpose = purpose
        self._dns_name = dns_name
        self._now = (clock or clock_of(source)).now
        self._max_kept = max_kept
        # One assignment replaces both, so that no thread sees chains of another view.
        self._kept: tuple[TrustView | None, _Kept] = (None, {})

    def verify(
        self, leaf: bytes | None, rest: Callable[[], Sequence[bytes]] = lambda: ()
    ) -> Verified:
        """Verify what a peer presented.

        Args:
            leaf: its certificate, DER; None when it showed none.
            rest: gives the other certificates it sent, DER; called when they are needed.

        Raises:
            PeerRefused: it is not accepted. The source has been told.
            LegationError: the source has no view to verify against.
        """
        view = self.source.view()
        known, kept = self._kept
        if known is not view:
            kept = _kept_in(view, before=known, kept=kept)
            self._kept = (view, kept)
        verified, _ = kept.get(leaf or b"", (None, ()))
        if verified is None:
            verified, path = self._verify_chain(leaf, rest, view)  # step 1
            if len(kept) >= self._max_kept:
                kept.pop(next(iter(kept)), None)
            kept[verified.peer.certificate] = verified, path[1:]
        failure = self._objection(verified)
        if failure is not None:
            raise self.refuse([failure], peer=verified.peer)
        return verified

    def recheck(self, verified: Verified) -> Cause | None:
        """Return why a peer that was let in would be refused now, or None: steps 3 and 4.

        The end of a certificate does not end a connection, as in any TLS.
        """
        failure = self._refusal(verified) or self._not_permitted(verified.peer)
        return None if failure is None else failure.cause

    def refused_by_source(self, verified: Verified) -> Failure | None:
        """Return what the source has against a peer by now, or None: step 3 alone."""
        return self._refusal(verified)

    def refuse(
        self, failures: Sequence[Failure], *, peer: Peer | None = None, raw: str = ""
    ) -> PeerRefused:
        """Make the error for a refusal, and tell the log and the source of it.

        Args:
            failures: what is wrong, the most telling first.
            peer: whom it is about, as far as known.
            raw: the TLS library's words, if it was the one that refused.
        """
        name = "" if peer is None else str(peer.spiffe_id)
        error = PeerRefused(failures, peer=name)
        shown = ascii(raw or error.message)[1:-1][:_MAX_RAW]
        _log.info("refused a %s %s: %s (%s)", self._purpose, name or "unknown", error.cause, shown)
        self.source.refused(
            Refusal(
                cause=error.cause,
                peer=name,
                serial=None if peer is None else peer.serial,
                raw=shown,
            )
        )
        return error

    # --- the steps ---------------------------------------------------------------------------

    def _verify_chain(
        self, leaf: bytes | None, rest: Callable[[], Sequence[bytes]], view: TrustView
    ) -> tuple[Verified, _Path]:
        if leaf is None:
            word = Failure(cause=Cause.NO_CLIENT_CERTIFICATE, detail="it showed no certificate")
            raise self.refuse([word])
        try:
            chain = [certificate_from_der(der) for der in (leaf, *rest())]
            found, peer = self._identify(chain, leaf, view)
        except InvalidInput as error:
            word = Failure(cause=Cause.MALFORMED_CERTIFICATE, detail=error.message)
            raise self.refuse([word]) from None
        except VerificationError as error:
            raise self.refuse(error.failures, peer=_claimed(chain[0], leaf)) from None
        revoked = revoked_issuers(found.path[1:], view.crls)
        if revoked:
            raise self.refuse(revoked, peer=peer)
        verified = Verified(
            peer=peer,
            not_before=max(certificate.not_valid_before_utc for certificate in found.path),
            issuer=found.path[1],
            certificate=found.certificate,
        )
        return verified, found.path

    def _identify(
        self, chain: Sequence[x509.Certificate], leaf: bytes, view: TrustView
    ) -> tuple[VerifiedCertificate, Peer]:
        now = self._now()
        if self._dns_name is None:
            svid = verify_svid(chain, bundle=view.bundles, at=now, purpose=self._purpose)
            found: VerifiedCertificate = svid
            spiffe_id = svid.spiffe_id
        else:
            owners = {
                authority: domain
                for domain, bundle in view.bundles.items()
                for authority in bundle.x509_authorities
            }
            found = verify_certificate(
                chain, authorities=owners, at=now, purpose=self._purpose, dns_name=self._dns_name
            )
            spiffe_id = owners[found.path[-1]].id
        peer = Peer(
            spiffe_id=spiffe_id,
            serial=found.certificate.serial_number,
            not_after=found.not_after,
            certificate=leaf,
        )
        return found, peer

    def _objection(self, verified: Verified) -> Failure | None:
        now = self._now()
        if now > verified.peer.not_after:  # step 2
            return Failure(
                cause=Cause.CERTIFICATE_EXPIRED, detail=f"it ended at {verified.peer.not_after}"
            )
        if now < verified.not_before:
            return Failure(
                cause=Cause.CERTIFICATE_NOT_YET_VALID, detail=f"it begins at {verified.not_before}"
            )
        return self._refusal(verified) or self._not_permitted(verified.peer)

    def _refusal(self, verified: Verified) -> Failure | None:  # step 3
        peer = verified.peer
        cause = self.source.refusal(
            serial=peer.serial, spiffe_id=peer.spiffe_id, issuer=verified.issuer
        )
        if cause is None:
            return None
        return Failure(cause=cause, detail=f"serial {peer.serial:x} of {peer.spiffe_id}")

    def _not_permitted(self, peer: Peer) -> Failure | None:  # step 4
        try:
            self._authorize(peer)
        except NotPermitted as error:
            cause = getattr(error, "cause", Cause.POLICY_DENIED)
            return Failure(cause=cause, detail=error.message)
        except Exception as error:
            # Foreign code between the handshake and the peer: whatever goes wrong in it,
            # the peer stays outside.
            _log.exception("the authorizer failed on %s", peer.spiffe_id)
            kind = type(error).__name__
            return Failure(cause=Cause.POLICY_DENIED, detail=f"the authorizer failed: {kind}")
        return None


def _claimed(certificate: x509.Certificate, der: bytes) -> Peer | None:
    """Return whom an unverified certificate names, for the report of its refusal."""
    from legation.pki.spiffe_id import SpiffeID

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        return Peer(
            spiffe_id=SpiffeID.parse(uris[0]),
            serial=certificate.serial_number,
            not_after=certificate.not_valid_after_utc,
            certificate=der,
        )
    except (x509.ExtensionNotFound, IndexError, InvalidInput, *UNREADABLE):
        return None


def _kept_in(view: TrustView, *, before: TrustView | None, kept: _Kept) -> _Kept:
    """Return which of the chains that were verified in the view `before` count in `view`, too.

    New revocation lists alone end those whose intermediates they name, and no others.
    """
    if before is None or before.bundles != view.bundles:
        return {}
    if before.crls == view.crls:
        return kept
    found = list(kept.items())  # another thread may add to it
    try:
        revoked = {
            issuers
            for issuers in {issuers for _, (_, issuers) in found}
            if revoked_issuers(issuers, view.crls)
        }
    except InvalidInput:  # a list that cannot be read: said of the chain that comes next
        return {}
    return {leaf: each for leaf, each in found if each[1] not in revoked}


def revoked_issuers(issuers: Sequence[x509.Certificate], crls: Sequence[bytes]) -> list[Failure]:
    """Return the intermediates that a list names, of the `issuers` from a leaf to the authority.

    Leaves are the source's matter, and so is what a missing or old list means; but no live
    serial speaks of intermediates.
    """
    if not crls or len(issuers) < 2:
        return []
    failures = []
    lists = [RevocationList.from_der(der) for der in crls]
    for position, (certificate, issuer) in enumerate(pairwise(issuers), 1):
        failures += [
            Failure(
                cause=Cause.CERTIFICATE_REVOKED,
                detail=f"serial {certificate.serial_number:x} was revoked: {reason}",
                subject=f"issuer {position}",
            )
            for one in lists
            if one.covers(certificate)
            and (reason := one.reason_for(certificate.serial_number)) is not None
            and one.verify_signature(issuer)
        ]
    return failures
