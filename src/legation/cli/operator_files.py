"""What an operator gets: a request to have certified, then a folder with the credential."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from legation.agent.private_files import make_private_directory, write_private
from legation.cli.credential import BUNDLE_FILE, OPERATOR_FILE, write_credential
from legation.pki import (
    CertificateRequest,
    PrivateKey,
    build_request,
    certificates_from_pem,
    certificates_to_pem,
    generate_key,
)
from legation.pki.pem import encode


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorRequest:
    """A certificate signing request, with its key when the key is ours.

    Attributes:
        pem: the request.
        private_key: None when somebody else made the request and keeps the key.
    """

    pem: str
    private_key: PrivateKey | None = field(repr=False)

    @classmethod
    def make(cls, request: bytes | None = None, *, private_key: PrivateKey | None = None) -> Self:
        """Check a ready request, or make one for `private_key` or a new key.

        Raises:
            InvalidInput: `request` is not one.
        """
        if request is not None:
            der, key = CertificateRequest.from_pem(request).der, None
        else:
            key = private_key or generate_key()
            der = build_request(key)
        return cls(pem=encode("CERTIFICATE REQUEST", der).decode("ascii"), private_key=key)

    def write(self, folder: Path, *, chain_pem: str, bundle_pem: str) -> None:
        """Write ``operator.pem`` and ``bundle.pem`` into `folder`.

        Raises:
            InvalidInput: the chain is not for our key, or the folder is not ours alone.
            Unavailable: the disk refuses.
        """
        chain = certificates_from_pem(chain_pem)
        make_private_directory(folder)
        write_private(folder / BUNDLE_FILE, bundle_pem.encode("ascii"))
        if self.private_key is None:
            write_private(folder / OPERATOR_FILE, certificates_to_pem(chain))
        else:
            write_credential(folder / OPERATOR_FILE, self.private_key, chain)
