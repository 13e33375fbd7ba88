"""What OpenSSL was told of one view of a source, and which issuers it has met since.

OpenSSL verifies every chain up to an anchor, in every handshake, while the issuers above
the leaves are the same few certificates again and again. So an issuer that was verified once,
by OpenSSL and by `PeerVerifier`, up to an authority of the view, becomes an anchor of
OpenSSL's itself: one signature less to verify in each handshake after that.

Nothing else is skipped. `PeerVerifier` still gets the whole chain of every leaf that it has not
met with this bundle, and checks it up to there: lengths, names, times, revoked issuers. What
follows a new bundle, or a revocation list that names an issuer that was met, begins with the
authorities alone.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from cryptography import x509
from OpenSSL import SSL, crypto

from legation.errors import InvalidInput
from legation.sdk.model import Source, TrustView
from legation.sdk.peers import revoked_issuers

MAX_ISSUERS: Final = 64  # that are remembered; whoever is below others is verified to the top


class Generation:
    """A context of OpenSSL and the view that it was made of. Safe to share between threads.

    Attributes:
        view: the newest that it serves; they differ in revocation lists alone.
        context: made of its identity and bundles.
    """

    __slots__ = ("_above", "_end", "context", "view")

    def __init__(self, view: TrustView, context: SSL.Context) -> None:
        self.view = view
        self.context = context
        self._above: dict[bytes, list[bytes]] = {}
        self._end: datetime | None = None

    def serves(self, view: TrustView, at: datetime) -> bool:
        """Return whether handshakes with `view` can be made with this.

        No longer once an issuer that was met has ended or was revoked: OpenSSL would prefer it
        to one of the same name and key that took its place.
        """
        if self._end is not None and at > self._end:
            return False
        known = self.view
        if known is view:
            return True
        if known.svids != view.svids or known.bundles != view.bundles or self._is_named(view.crls):
            return False
        self.view = view
        return True

    def _is_named(self, crls: Sequence[bytes]) -> bool:
        """Tell whether a list names an issuer that was met, or cannot be read."""
        load = x509.load_der_x509_certificate
        paths = [[load(der) for der in (met, *above)] for met, above in list(self._above.items())]
        try:
            return any(revoked_issuers(path, crls) for path in paths)
        except InvalidInput:
            return True

    def complete(self, seen: list[bytes]) -> list[bytes]:
        """Return the chain above a leaf, DER, where OpenSSL stopped at an issuer it had met.

        Args:
            seen: up to where it went, the leaf's issuer first.
        """
        return seen + self._above.get(seen[-1], []) if seen else seen

    def learn(self, issuer: x509.Certificate, above: Sequence[crypto.X509], source: Source) -> None:
        """Make an anchor of an issuer that was verified.

        Args:
            issuer: the certificate next to a leaf that `PeerVerifier` has accepted.
            above: from the anchor down, what OpenSSL went through before it.
            source: whose view was verified against.
        """
        # A view that came in the meantime was the one to verify against, perhaps.
        if len(self._above) >= MAX_ISSUERS or source.view() is not self.view:
            return
        made = crypto.X509.from_cryptography(issuer)
        chain = self.complete([der_of(each) for each in reversed(above)])
        path = [issuer, *(x509.load_der_x509_certificate(der) for der in chain)]
        end = min(certificate.not_valid_after_utc for certificate in path)
        # In this order: OpenSSL must not stop where nobody knows how to go on.
        self._end = end if self._end is None else min(end, self._end)
        self._above[der_of(made)] = chain
        store_of(self.context).add_cert(made)


def store_of(context: SSL.Context) -> crypto.X509Store:
    """Return the anchors of a context."""
    store = context.get_cert_store()
    assert store is not None  # noqa: S101 - every context of OpenSSL has one
    return store


def der_of(certificate: crypto.X509) -> bytes:
    """Return a certificate in DER."""
    return crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)
