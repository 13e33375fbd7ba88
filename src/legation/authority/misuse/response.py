"""What to do about a signal: one revocation, and the command line that is the same."""

from dataclasses import dataclass

from legation.authority.misuse.model import Finding, Kind
from legation.authority.model import AGENT_PREFIX


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A revocation.

    Attributes:
        what: ``serial``, ``identity``, ``agent``, or ``key``: that of a certificate.
        value: a serial number in hexadecimal, or a SPIFFE ID.
        reason: RFC 5280, section 5.3.1.
        effect: in words.
    """

    what: str
    value: str
    reason: str
    effect: str

    @property
    def command(self) -> str:
        """The command that does the same."""
        extra = " --no-ban" if self.what == "identity" else ""
        return f"legation revoke --{self.what} {self.value}{extra} --reason {self.reason} --wait"


def response_to(finding: Finding) -> Response:
    """Return what answers a finding: never more than what is suspected."""
    serial = format(finding.serial, "x")
    if finding.kind is Kind.ODD_RATE:
        return Response(
            what="identity",
            value=finding.spiffe_id,
            reason="unspecified",
            effect="every certificate of the identity; its nodes get new ones at once",
        )
    if finding.kind is Kind.REVOKED_CERTIFICATE_SEEN:
        return Response(
            what="key",
            value=serial,
            reason="keyCompromise",
            effect="the certificate's key, which is never certified again",
        )
    if AGENT_PREFIX in finding.spiffe_id:
        return Response(
            what="agent",
            value=finding.spiffe_id,
            reason="keyCompromise",
            effect="the agent and all that it asked for; it has to enrol again",
        )
    return Response(
        what="serial",
        value=serial,
        reason="keyCompromise",
        effect="the certificate; its node gets another with a new key at once",
    )
