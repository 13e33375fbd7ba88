"""Certificates of other authorities: possession of the key is proved, the key stays."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509

from legation.agent.evidence.evidence import Occasion
from legation.pki import PrivateKey, certificates_to_pem
from legation.pki.keys import sign
from legation.wire.evidence import X509, possession_payload


@dataclass(frozen=True, slots=True, kw_only=True)
class X509Possession:
    """Implements `Evidence` with a certificate, leaf first, and its key."""

    chain: tuple[x509.Certificate, ...]
    key: PrivateKey = field(repr=False)

    @property
    def kind(self) -> str:
        """The word for it."""
        return X509

    def document(self, occasion: Occasion) -> Mapping[str, Any]:
        """Sign the authority's challenge together with the request."""
        nonce = occasion.challenge()
        payload = possession_payload(
            trust_domain=occasion.trust_domain, nonce=nonce, csr=occasion.csr
        )
        return {
            "chain_pem": certificates_to_pem(self.chain).decode(),
            "nonce": base64.b64encode(nonce).decode(),
            "signature": base64.b64encode(sign(self.key, payload)).decode(),
        }
