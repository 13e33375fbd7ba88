"""Certificates of other authorities as evidence: a data centre's, a device maker's.

1. The nonce is one of ours, and its time is not over.
2. The chain leads to a configured root, is in force, and is not revoked.
3. The certificate's key signed the nonce together with the request's digest.
4. The certificate's facts are those that may enrol, and make the agent's name.
"""

import asyncio
import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from legation.authority.attestation.challenges import NONCE_SIZE, Challenges
from legation.authority.attestation.naming import Facts, agent_of, require
from legation.authority.attestation.node import AttestedNode, text_of
from legation.authority.attestation.refusal import EvidenceRefused
from legation.causes import Cause, Failure
from legation.config.attestation import X509Evidence
from legation.config.files import open_without_waiting, reason_of
from legation.errors import InvalidInput, LegationError, NotFound, VerificationError
from legation.pki import Purpose, TrustDomain, certificates_from_pem, verify_certificate
from legation.pki.crl import RevocationList
from legation.pki.keys import key_fingerprint, verify
from legation.wire.evidence import X509, possession_payload

_MAX_CHAIN = 64 * 1024
_MAX_SIGNATURE = 8 * 1024
_MAX_FILE = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedIssuers:
    """Whose certificates count, and for what."""

    rules: X509Evidence
    roots: tuple[x509.Certificate, ...]
    crls: tuple[RevocationList, ...]

    @classmethod
    def read(cls, rules: X509Evidence) -> "TrustedIssuers":
        """Read the files that the configuration names.

        Raises:
            NotFound, InvalidInput: a file is absent, or not what it should be.
        """
        return cls(
            rules=rules,
            roots=tuple(certificates_from_pem(_read(rules.roots_file))),
            crls=tuple(RevocationList.from_der(_crl_der(_read(path))) for path in rules.crl_files),
        )


class X509Attestor:
    """Implements `NodeAttestor` with proof of possession of a certificate's key."""

    kind = X509

    def __init__(
        self,
        rules: Sequence[X509Evidence],
        *,
        challenges: Challenges,
        trust_domain: TrustDomain,
    ) -> None:
        """Judge by `rules`.

        Args:
            rules: the configured tables, at least one.
            challenges: makes the nonces.
            trust_domain: of the agents.

        Raises:
            NotFound, InvalidInput: a file that a table names cannot be used.
        """
        self._rules = tuple(rules)
        self._read()
        self._challenges = challenges
        self._trust_domain = trust_domain

    async def attest(
        self, document: Mapping[str, Any], *, csr: bytes, at: datetime
    ) -> AttestedNode:
        """Check nonce, chain, signature and facts."""
        nonce = _bytes_of(document, "nonce", limit=2 * NONCE_SIZE)
        spend = self._challenges.check(nonce, at)  # step 1
        chain = _chain_of(document)
        # Read anew each time: revocation lists change, and enrolments are rare.
        trusted = _verified(chain, await asyncio.to_thread(self._read), at)  # step 2
        payload = possession_payload(trust_domain=str(self._trust_domain), nonce=nonce, csr=csr)
        signature = _bytes_of(document, "signature", limit=_MAX_SIGNATURE)
        key: Any = chain[0].public_key()
        if not verify(key, signature, payload):  # step 3
            raise EvidenceRefused(
                Cause.EVIDENCE_FORGED,
                "the certificate's key has not signed this challenge with this request",
            )
        facts, rules = facts_of(chain[0]), trusted.rules
        require(facts, rules.require)  # step 4
        return AttestedNode(
            agent=agent_of(
                facts, rules.agent, allowed=rules.allowed_agents, trust_domain=self._trust_domain
            ),
            evidence=f"{self.kind} {rules.name}",
            spend=spend,
            facts={name: ", ".join(values) for name, values in facts.items()},
        )

    def _read(self) -> Sequence[TrustedIssuers]:
        return [TrustedIssuers.read(rules) for rules in self._rules]


def _verified(
    chain: Sequence[x509.Certificate], tables: Iterable[TrustedIssuers], at: datetime
) -> TrustedIssuers:
    """Return the first table whose roots vouch for the chain.

    Raises:
        EvidenceRefused: with the failures against the table that the chain came closest to.
    """
    failures: Sequence[Failure] = ()
    for trusted in tables:
        try:
            verify_certificate(
                chain,
                authorities=trusted.roots,
                at=at,
                purpose=Purpose.CLIENT,
                crls=trusted.crls,
            )
        except VerificationError as error:
            if not failures or failures[0].cause is Cause.UNKNOWN_AUTHORITY:
                failures = error.failures
        else:
            return trusted
    raise EvidenceRefused(failures[0].cause, "; ".join(one.detail for one in failures))


def facts_of(certificate: x509.Certificate) -> Facts:
    """Return what names and rules may be made of."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        dns_names = names.value.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        dns_names = []
    key: Any = certificate.public_key()
    return {
        "common_name": _attributes(certificate, x509.NameOID.COMMON_NAME),
        "organization": _attributes(certificate, x509.NameOID.ORGANIZATION_NAME),
        "dns_name": tuple(dns_names),
        "serial": (format(certificate.serial_number, "x"),),
        "key_fingerprint": (key_fingerprint(key).hex(),),
    }


def _attributes(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> tuple[str, ...]:
    values: Iterable[Any] = (a.value for a in certificate.subject.get_attributes_for_oid(oid))
    return tuple(value for value in values if isinstance(value, str))


def _chain_of(document: Mapping[str, Any]) -> Sequence[x509.Certificate]:
    pem = text_of(document, "chain_pem", limit=_MAX_CHAIN)
    if pem is None:
        raise EvidenceRefused(Cause.EVIDENCE_MALFORMED, "there is no chain_pem in it")
    try:
        return certificates_from_pem(pem)
    except LegationError as error:
        raise EvidenceRefused(Cause.MALFORMED_CERTIFICATE, error.message) from None


def _bytes_of(document: Mapping[str, Any], name: str, *, limit: int) -> bytes:
    text = text_of(document, name, limit=limit)
    if text is None:
        raise EvidenceRefused(Cause.EVIDENCE_UNSIGNED, f"there is no {name} in it")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise EvidenceRefused(Cause.EVIDENCE_MALFORMED, f"its {name} is not Base64") from None


def _read(path: Path) -> bytes:
    try:
        with open_without_waiting(path) as file:
            content: bytes = file.read(_MAX_FILE)
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}") from None
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} cannot be read: {reason_of(error)}") from None
    return content


def _crl_der(content: bytes) -> bytes:
    if not content.startswith(b"-----"):
        return content
    try:
        return x509.load_pem_x509_crl(content).public_bytes(Encoding.DER)
    except ValueError:
        raise InvalidInput("a file with a revocation list is neither PEM nor DER") from None
