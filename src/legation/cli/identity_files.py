"""An identity as files: all of one moment, in a directory that only their owner can enter.

``current`` is a link to the files of the newest moment and is replaced as a whole, so that
nobody finds a new key beside an old certificate by way of one and the same link. The files
of the moment before stay, for whoever has read the link and not yet the files.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from legation.agent.private_files import make_private_directory, sync_directory, write_private
from legation.errors import Conflict
from legation.pki import certificates_to_pem, private_key_to_pem
from legation.sdk.model import TrustView

CURRENT: Final = "current"
NAMES: Final[Mapping[str, str]] = {
    "LEGATION_CHAIN_FILE": "chain.pem",
    "LEGATION_KEY_FILE": "key.pem",
    "LEGATION_COMBINED_FILE": "combined.pem",
    "LEGATION_BUNDLE_FILE": "bundle.pem",
    "LEGATION_CRL_FILE": "crl.pem",
}
_KEPT = 2
_MEMORY = Path("/dev/shm")  # noqa: S108 - mkdtemp makes the names


class IdentityFiles:
    """Files of an identity, below a directory of mode 0700.

    Args:
        directory: where; None for a new one, in memory where the system has that.
    """

    def __init__(self, directory: Path | None) -> None:
        if directory is None:
            self._directory, self._ours = directory_in_memory("legation-"), True
        else:
            self._ours = not directory.exists()
            make_private_directory(directory)
            self._directory = directory.absolute()
            if os.path.lexists(self.current):
                raise Conflict(
                    f"{self.current} is there already",
                    remedy="another `legation run` may use it; choose another directory",
                )
        self._number = 0
        self._written: Mapping[str, bytes] | None = None

    @property
    def current(self) -> Path:
        """The link to the newest files."""
        return self._directory / CURRENT

    def variables(self) -> Mapping[str, str]:
        """Return the environment variables that name the files."""
        paths = {name: str(self.current / file) for name, file in NAMES.items()}
        return {"LEGATION_IDENTITY_DIR": str(self.current), **paths}

    def write(self, view: TrustView) -> bool:
        """Write the files of a view; return whether anything in them is new.

        Raises:
            Unavailable: the disk refuses.
        """
        contents = contents_of(view)
        if contents == self._written:
            return False
        self._number += 1
        folder = self._directory / str(self._number)
        make_private_directory(folder)
        for name, content in contents.items():
            write_private(folder / name, content)
        draft = self._directory / f".{CURRENT}"
        draft.unlink(missing_ok=True)
        draft.symlink_to(folder.name)
        draft.replace(self.current)
        sync_directory(self._directory)
        self._written = contents
        shutil.rmtree(self._directory / str(self._number - _KEPT), ignore_errors=True)
        return True

    def remove(self) -> None:
        """Remove them, and the directory if it was made for them."""
        self.current.unlink(missing_ok=True)
        for number in range(1, self._number + 1):
            shutil.rmtree(self._directory / str(number), ignore_errors=True)
        if self._ours:
            with contextlib.suppress(OSError):
                self._directory.rmdir()


def directory_in_memory(prefix: str) -> Path:
    """Make a new directory of mode 0700, in memory where the system has that."""
    place = _MEMORY if os.access(_MEMORY, os.W_OK | os.X_OK) else None
    return Path(tempfile.mkdtemp(prefix=prefix, dir=place))


def contents_of(view: TrustView) -> Mapping[str, bytes]:
    """Return what the files hold, by name."""
    svid = view.svid
    chain, key = certificates_to_pem(svid.chain), private_key_to_pem(svid.private_key)
    bundle = view.bundles.get(svid.spiffe_id.trust_domain)
    return {
        "chain.pem": chain,
        "key.pem": key,
        "combined.pem": key + chain,
        "bundle.pem": certificates_to_pem(bundle.x509_authorities) if bundle else b"",
        "crl.pem": b"".join(
            x509.load_der_x509_crl(crl).public_bytes(Encoding.PEM) for crl in view.crls
        ),
    }
