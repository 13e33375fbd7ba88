"""Verifying certificate chains and SVIDs."""

from legation.pki.verification.checks import Purpose
from legation.pki.verification.procedure import (
    VerifiedCertificate,
    VerifiedSVID,
    verify_certificate,
    verify_svid,
)
from legation.pki.verification.revocation import CRLScope

__all__ = [
    "CRLScope",
    "Purpose",
    "VerifiedCertificate",
    "VerifiedSVID",
    "verify_certificate",
    "verify_svid",
]
