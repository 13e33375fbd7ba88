"""Private keys at rest: AES-256-GCM envelopes under one key-encryption key.

The key-encryption key is 32 random bytes, or derived from a passphrase. It is read at
the edge (a file, a systemd credential), handed in, and never stored beside what it opens.
"""

import hashlib
import os
import secrets
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol, cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from legation.authority.store import WrappedKey
from legation.errors import InternalError, InvalidInput, NotFound
from legation.pki import PrivateKey, algorithm_of

KEY_SIZE: Final = 32
SALT_SIZE: Final = 16
_NONCE_SIZE: Final = 12
_MIN_PASSPHRASE: Final = 12
# RFC 7914 with 64 MiB of memory: about 0.2 s once, at start.
_SCRYPT_N: Final = 1 << 16
_SCRYPT_R: Final = 8
_SCRYPT_MEMORY: Final = 2 * 128 * _SCRYPT_N * _SCRYPT_R

ROOT_KEY: Final = "root"
ISSUING_KEY: Final = "issuing"
FEED_KEY: Final = "feed"
JWT_KEY: Final = "jwt"


class KeyEncryptionKey(Protocol):
    """Something that can give the 32 bytes under which this authority's keys are wrapped."""

    def secret(self, salt: bytes) -> bytes:
        """Return them; `salt` is the authority's own, and not secret."""
        ...


class RawKey:
    """A key-encryption key of 32 random bytes."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_SIZE:
            raise InvalidInput(
                f"the key-encryption key has {len(key)} bytes, it must have {KEY_SIZE}",
                remedy="give the file that `legation server init` made",
            )
        self._key = key

    def secret(self, salt: bytes) -> bytes:  # noqa: ARG002 - random bytes need no salt
        """Return the bytes."""
        return self._key


class Passphrase:
    """A key-encryption key derived from a passphrase with scrypt (RFC 7914)."""

    def __init__(self, passphrase: bytes) -> None:
        if len(passphrase) < _MIN_PASSPHRASE:
            raise InvalidInput(
                f"the passphrase is shorter than {_MIN_PASSPHRASE} bytes",
                remedy="use a longer one, or a random key file",
            )
        self._passphrase = passphrase

    def secret(self, salt: bytes) -> bytes:
        """Derive the bytes; takes some tenths of a second on purpose."""
        return hashlib.scrypt(
            self._passphrase,
            salt=salt,
            n=_SCRYPT_N,
            r=_SCRYPT_R,
            p=1,
            maxmem=_SCRYPT_MEMORY,
            dklen=KEY_SIZE,
        )


def read_key_file(path: Path) -> RawKey:
    """Read a key-encryption key from a file that only its owner may read.

    Raises:
        NotFound: there is no such file.
        InvalidInput: others may read it, or it does not hold 32 bytes.
    """
    try:
        mode = path.stat().st_mode
        data = path.read_bytes()[: KEY_SIZE + 1]
    except FileNotFoundError:
        raise NotFound(
            f"there is no key-encryption key at {path}",
            remedy="restore it from your backup; without it the authority's keys stay shut",
        ) from None
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from None
    if mode & 0o077:
        raise InvalidInput(
            f"others than the owner may read the key-encryption key {path}",
            remedy=f"chmod 600 {path}, and consider whether it is known to someone",
        )
    return RawKey(data)


def create_key_file(path: Path) -> RawKey:
    """Make a random key-encryption key, readable by its owner only, and never replace one.

    Raises:
        InvalidInput: the file exists already or cannot be written.
    """
    key = secrets.token_bytes(KEY_SIZE)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise InvalidInput(
            f"{path} exists already", remedy="use it, or choose another place for the new key"
        ) from None
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written: {error.strerror}") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(key)
        file.flush()
        os.fsync(file.fileno())
    _sync_directory(path.parent)
    return RawKey(key)


class KeyStore:
    """Wraps and unwraps private keys."""

    def __init__(self, key: KeyEncryptionKey, salt: bytes) -> None:
        self._cipher = AESGCM(key.secret(salt))

    def wrap(
        self, key_id: str, purpose: str, private_key: PrivateKey, *, at: datetime
    ) -> WrappedKey:
        """Encrypt a private key; the envelope opens under the same id and purpose only."""
        plain = private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        nonce = os.urandom(_NONCE_SIZE)
        return WrappedKey(
            id=key_id,
            purpose=purpose,
            algorithm=str(algorithm_of(private_key.public_key())),
            envelope=nonce + self._cipher.encrypt(nonce, plain, _bound(key_id, purpose)),
            created_at=at,
        )

    def unwrap(self, wrapped: WrappedKey) -> PrivateKey:
        """Decrypt a private key.

        Raises:
            InvalidInput: the key-encryption key is another one, or the envelope was altered.
        """
        nonce, sealed = wrapped.envelope[:_NONCE_SIZE], wrapped.envelope[_NONCE_SIZE:]
        try:
            plain = self._cipher.decrypt(nonce, sealed, _bound(wrapped.id, wrapped.purpose))
        except (InvalidTag, ValueError):
            raise InvalidInput(
                f"the key-encryption key does not open the {wrapped.purpose} key of this authority",
                remedy="give the key file or passphrase that this authority was initialised with",
            ) from None
        return cast("PrivateKey", load_der_private_key(plain, None))

    def unwrap_all(self, wrapped: Sequence[WrappedKey]) -> dict[str, PrivateKey]:
        """Decrypt every key; return them by id."""
        return {key.id: self.unwrap(key) for key in wrapped}


def feed_key(wrapped: Sequence[WrappedKey], keys: dict[str, PrivateKey]) -> EllipticCurvePrivateKey:
    """Return the newest key that signs the feed.

    Raises:
        InternalError: there is none.
    """
    for candidate in reversed(wrapped):
        if candidate.purpose == FEED_KEY:
            key = keys[candidate.id]
            if isinstance(key, EllipticCurvePrivateKey):
                return key
    raise InternalError("this authority has no feed key")


def _bound(key_id: str, purpose: str) -> bytes:
    """Tie an envelope to its place: an attacker with the database cannot swap two keys."""
    return f"legation key\0{key_id}\0{purpose}".encode()


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
