"""Issuing certificates."""

from legation.pki.issuance.extensions import distribution_point, only_trust_domain
from legation.pki.issuance.issuer import Issuer
from legation.pki.issuance.procedure import issue, issue_ca, self_sign
from legation.pki.issuance.values import IssuedCertificate, Subject, Validity

__all__ = [
    "IssuedCertificate",
    "Issuer",
    "Subject",
    "Validity",
    "distribution_point",
    "issue",
    "issue_ca",
    "only_trust_domain",
    "self_sign",
]
