"""Which OCSP response a proxy is given with its certificate.

Envoy does the rest: it sends a response until its nextUpdate, and answers nobody who asks for
the status of a certificate that must be stapled (RFC 7633) when it has none that counts.
"""

from legation.agent.identities.staples import Stapled, needs_staple
from legation.agent.model import WorkloadIdentity


class Stapling:
    """The response that goes with the certificate of one proxy.

    Attributes:
        given: the one that was chosen last, or None.
    """

    def __init__(self, staple: Stapled) -> None:
        self.given: bytes | None = None
        self._staple = staple
        self._refused: bytes | None = None
        self._serial = 0

    def choose(self, identity: WorkloadIdentity) -> bytes | None:
        """Return what to give with a certificate."""
        before = self.given if identity.serial == self._serial else None
        staple = self._staple(identity.serial)
        if staple is None and before is not None and needs_staple(identity):
            # Envoy refuses such a certificate without a response, and all that comes with it.
            staple = before
        self.given = None if staple == self._refused else staple
        self._serial = identity.serial
        return self.given

    def refuse(self) -> bool:
        """Do without the response that was given last; False if there was none."""
        refused, self.given = self.given, None
        if refused is not None:
            self._refused = refused
        return refused is not None
