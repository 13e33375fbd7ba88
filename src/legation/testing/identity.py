"""Identities with their keys, and the files that other programs want them in."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from legation.pki import PrivateKey, SpiffeID, certificates_to_pem, private_key_to_pem
from legation.sdk.model import X509SVID


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityFiles:
    """Where an identity was written.

    Attributes:
        certificate: the chain, PEM, leaf first.
        private_key: PKCS#8, PEM, unencrypted, mode 0600.
        trust_bundle: certificates of the authorities to trust, PEM.
    """

    certificate: Path
    private_key: Path
    trust_bundle: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A certificate with its key, and whom its holder trusts.

    Attributes:
        svid: certificate chain and key.
        authorities: what its trust domain's bundle contained when it was issued.
    """

    svid: X509SVID
    authorities: tuple[x509.Certificate, ...]

    @property
    def spiffe_id(self) -> SpiffeID:
        """Whose it is."""
        return self.svid.spiffe_id

    @property
    def serial(self) -> int:
        """Serial number of the leaf."""
        return self.svid.serial

    @property
    def certificate(self) -> x509.Certificate:
        """The leaf."""
        return self.svid.chain[0]

    @property
    def private_key(self) -> PrivateKey:
        """The leaf's key."""
        return self.svid.private_key

    @property
    def certificate_pem(self) -> bytes:
        """The chain, leaf first."""
        return certificates_to_pem(self.svid.chain)

    @property
    def private_key_pem(self) -> bytes:
        """The key, PKCS#8, unencrypted."""
        return private_key_to_pem(self.svid.private_key)

    @property
    def trust_bundle_pem(self) -> bytes:
        """The authorities."""
        return certificates_to_pem(self.authorities)

    def write_to(self, directory: str | os.PathLike[str]) -> IdentityFiles:
        """Write three PEM files into a directory, which is made if there is none."""
        folder = Path(directory)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        contents = {
            "certificate": self.certificate_pem,
            "private_key": self.private_key_pem,
            "trust_bundle": self.trust_bundle_pem,
        }
        return IdentityFiles(**dict(_written(folder, contents.items())))


def _written(folder: Path, contents: Iterable[tuple[str, bytes]]) -> Iterable[tuple[str, Path]]:
    for name, content in contents:
        path = folder / f"{name}.pem"
        path.unlink(missing_ok=True)
        # Private before there is anything in it.
        path.touch(mode=0o600, exist_ok=False)
        path.write_bytes(content)
        yield name, path
