"""The operator's credential: a folder with ``operator.pem`` and ``bundle.pem``.

``operator.pem`` holds the private key and the certificate chain, leaf first;
``bundle.pem`` holds the roots of the trust domain.
"""

import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509

from legation.agent.private_files import read_bounded, write_private
from legation.errors import InvalidInput, NotFound
from legation.pki import (
    PrivateKey,
    SpiffeID,
    certificates_from_pem,
    certificates_to_pem,
    chain_matches_key,
    private_key_from_pem,
    private_key_to_pem,
)

OPERATOR_FILE = "operator.pem"
BUNDLE_FILE = "bundle.pem"
MAX_FILE_SIZE = 1 << 20
# Where `legation server init` leaves the first operator's credential.
SERVER_FOLDER = Path("/var/lib/legation/authority/operator")

_KEY = re.compile(
    rb"-----BEGIN ([A-Z ]*)PRIVATE KEY-----.*?-----END \1PRIVATE KEY-----\s*", re.DOTALL
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorCredential:
    """A private key, its certificate chain, and the roots to trust.

    Attributes:
        path: of ``operator.pem``.
        chain: leaf first.
        private_key: of the leaf.
        bundle_pem: the roots of the trust domain.
    """

    path: Path
    chain: tuple[x509.Certificate, ...]
    private_key: PrivateKey = field(repr=False)
    bundle_pem: str = field(repr=False)

    @classmethod
    def load(cls, folder: Path) -> "OperatorCredential":
        """Read the credential in `folder`.

        Raises:
            NotFound: a file is missing.
            InvalidInput: a file is not what it should be, or others may read the key.
        """
        path = folder / OPERATOR_FILE
        pem = _read(path)
        if path.stat().st_mode & 0o077:
            raise InvalidInput(f"others may read {path}", remedy=f"run `chmod 600 {path}`")
        found = _KEY.search(pem)
        if found is None:
            raise InvalidInput(f"{path} holds no private key")
        private_key = private_key_from_pem(found[0])
        chain = certificates_from_pem(pem[: found.start()] + pem[found.end() :])
        if not chain_matches_key(chain, private_key):
            raise InvalidInput(f"key and certificate in {path} do not belong together")
        bundle = _read(folder / BUNDLE_FILE)
        certificates_from_pem(bundle)
        return cls(
            path=path, chain=chain, private_key=private_key, bundle_pem=bundle.decode("ascii")
        )

    @property
    def leaf(self) -> x509.Certificate:
        """The operator's own certificate."""
        return self.chain[0]

    @property
    def spiffe_id(self) -> SpiffeID:
        """Who the operator is.

        Raises:
            InvalidInput: the certificate names no SPIFFE ID.
        """
        try:
            names = self.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except x509.ExtensionNotFound:
            uris = []
        else:
            uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
        if len(uris) != 1:
            raise InvalidInput(f"the certificate in {self.path} is no SPIFFE identity")
        return SpiffeID.parse(uris[0])

    def remaining(self, at: datetime) -> float:
        """Return the fraction of the lifetime that is left at `at`; below 0 when it is over."""
        begin, end = self.leaf.not_valid_before_utc, self.leaf.not_valid_after_utc
        return (end - at) / (end - begin)


def write_credential(
    path: Path, private_key: PrivateKey, chain: tuple[x509.Certificate, ...]
) -> None:
    """Write key and chain to `path`, readable by its owner only.

    Raises:
        InvalidInput: they do not belong together.
        Unavailable: the disk refuses.
    """
    if not chain_matches_key(chain, private_key):
        raise InvalidInput("the authority certified another key than ours; nothing was changed")
    write_private(path, private_key_to_pem(private_key) + certificates_to_pem(chain))


def default_folder(app_folder: Path) -> Path:
    """Return where the credential is, when nobody says: our own, or the local authority's."""
    for folder in (app_folder, SERVER_FOLDER):
        try:
            if (folder / OPERATOR_FILE).exists():
                return folder
        except PermissionError:
            continue
    return app_folder


def _read(path: Path) -> bytes:
    try:
        return read_bounded(path, limit=MAX_FILE_SIZE)
    except NotFound:
        raise NotFound(
            f"there is no {path}",
            remedy="name the folder of your operator credential with --credential; "
            "`legation server init` and `legation operator create` make one",
        ) from None
