"""A root and an issuer below it, for benches that need some."""

from cryptography import x509

from legation.pki import Issuer, Subject, Validity, generate_key, issue_ca, self_sign


def hierarchy(validity: Validity) -> tuple[x509.Certificate, Issuer]:
    """Make a root and an issuer, both with this validity; return the root's certificate, too."""
    root_key, key = generate_key(), generate_key()
    root = self_sign(
        root_key, subject=Subject(common_name="Root"), serial=1 << 100, validity=validity
    ).certificate
    issued = issue_ca(
        Issuer(root, root_key),
        subject=Subject(common_name="Issuer"),
        public_key=key.public_key(),
        serial=1 << 101,
        validity=validity,
    ).certificate
    return root, Issuer(issued, key, (issued,))
