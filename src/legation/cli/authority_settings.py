"""From the authority's configuration to what the authority is told."""

from pathlib import Path

from legation.authority.keystore import (
    KeyEncryptionKey,
    Passphrase,
    RawKey,
    create_key_file,
    read_key_file,
)
from legation.config import ServerConfig, key_protection
from legation.config.ports import unused_port
from legation.config.secret_files import Protection

KEY_FILE = "key-encryption-key"
OPERATOR_FOLDER = "operator"


def with_status_port(config: ServerConfig) -> ServerConfig:
    """Replace port 0 of the status listener: certificates name it before it listens."""
    listener = config.listen.status
    if listener.port or config.status_url:
        return config
    chosen = type(listener)(listener.host, unused_port(listener.host))
    listen = config.listen.model_copy(update={"status": chosen})
    return config.model_copy(update={"listen": listen})


def key_file(config: ServerConfig) -> Path | None:
    """Return the key-encryption key's file, or None when the key comes from elsewhere."""
    if config.keys.kek_file is not None:
        return config.keys.kek_file
    if config.keys.model_dump(exclude_none=True):
        return None
    return config.data_dir / KEY_FILE


def encryption_key(config: ServerConfig, *, create: bool = False) -> KeyEncryptionKey:
    """Return what opens the authority's private keys.

    Args:
        config: says where it is.
        create: make the file when it is a file and there is none.

    Raises:
        NotFound: it is not there.
        InvalidInput: it cannot be used.
    """
    path = key_file(config)
    if path is not None:
        if create and not path.exists():
            return create_key_file(path)
        return read_key_file(path)
    protection = key_protection(config.keys)
    assert protection is not None  # noqa: S101 - `key_file` is None only when one is named
    if protection.kind is Protection.PASSPHRASE:
        return Passphrase(protection.secret)
    return RawKey(protection.secret)
