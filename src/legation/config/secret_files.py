"""Secrets: read from files, systemd credentials or the environment; never kept in a configuration.

A configuration only says where a secret is, so that showing or logging it shows none.
https://systemd.io/CREDENTIALS/ describes ``$CREDENTIALS_DIRECTORY``.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from legation.config.agent import AgentConfig
from legation.config.files import open_without_waiting, reason_of
from legation.config.server import Keys
from legation.errors import InvalidInput, LimitExceeded, NotFound

MAX_SECRET_BYTES = 64 * 1024
JOIN_TOKEN_VARIABLE = "LEGATION_JOIN_TOKEN"  # noqa: S105 - a name, not a secret


class Protection(StrEnum):
    """What kind of secret protects the signing keys."""

    KEY_ENCRYPTION_KEY = "key-encryption-key"
    PASSPHRASE = "passphrase"  # noqa: S105 - a word, not a secret


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyProtection:
    """The secret that protects the signing keys at rest."""

    kind: Protection
    secret: bytes = field(repr=False)


def read_secret(path: Path) -> bytes:
    """Return a secret file's content, byte for byte: a key may end in what looks like a line end.

    Raises:
        NotFound: there is no such file.
        InvalidInput: it is no regular file, is empty, or others than its owner and group
            may read or change it.
        LimitExceeded: it is larger than 64 KiB.
    """
    try:
        file = open_without_waiting(path)
    except FileNotFoundError:
        raise NotFound(f"there is no secret file {path}") from None
    except (OSError, ValueError) as error:
        raise InvalidInput(f"cannot read the secret file {path}: {reason_of(error)}") from None
    with file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise InvalidInput(f"the secret file {path} is not a regular file")
        if status.st_mode & (stat.S_IRWXO | stat.S_IWGRP):
            raise InvalidInput(
                f"the secret file {path} is open to others", remedy=f"run: chmod 600 {path}"
            )
        content = file.read(MAX_SECRET_BYTES + 1)
    if len(content) > MAX_SECRET_BYTES:
        raise LimitExceeded(f"the secret file {path} is larger than {MAX_SECRET_BYTES} bytes")
    if not content.strip():
        raise InvalidInput(f"the secret file {path} is empty")
    return content


def read_credential(name: str, *, environment: Mapping[str, str] | None = None) -> bytes:
    """Return the systemd credential `name`.

    Raises:
        NotFound: systemd passed no credentials, or not this one.
        InvalidInput: as `read_secret`.
    """
    directory = _environment(environment).get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise NotFound(
            f"there is no systemd credential {name}: CREDENTIALS_DIRECTORY is not set",
            remedy="set LoadCredential= in the unit, or name a file instead",
        )
    return read_secret(Path(directory) / name)


def key_protection(
    keys: Keys, *, environment: Mapping[str, str] | None = None
) -> KeyProtection | None:
    """Return the secret that `keys` names, or None when it names none.

    Raises:
        NotFound: the file, credential or variable does not exist.
        InvalidInput: the secret is not acceptable; see `read_secret`.
    """
    if keys.kek_file:
        return _kek(read_secret(keys.kek_file))
    if keys.kek_credential:
        return _kek(read_credential(keys.kek_credential, environment=environment))
    if keys.passphrase_file:
        return _passphrase(read_secret(keys.passphrase_file))
    if keys.passphrase_credential:
        return _passphrase(read_credential(keys.passphrase_credential, environment=environment))
    if keys.passphrase_env:
        value = _environment(environment).get(keys.passphrase_env)
        if not value:
            raise NotFound(f"the environment variable {keys.passphrase_env} is not set")
        return _passphrase(os.fsencode(value))
    return None


def read_join_token(
    config: AgentConfig, *, environment: Mapping[str, str] | None = None
) -> str | None:
    """Return the join token, or None when none was given.

    A file or credential named in the configuration comes before ``LEGATION_JOIN_TOKEN``.

    Raises:
        NotFound: the file or credential does not exist.
        InvalidInput: the token is not acceptable; see `read_secret`.
    """
    if config.join_token_file:
        secret = read_secret(config.join_token_file)
    elif config.join_token_credential:
        secret = read_credential(config.join_token_credential, environment=environment)
    else:
        value = _environment(environment).get(JOIN_TOKEN_VARIABLE)
        if not value:
            return None
        secret = os.fsencode(value)
    try:
        return secret.decode("ascii").strip()
    except UnicodeDecodeError:
        raise InvalidInput("the join token holds characters that no token has") from None


def _kek(secret: bytes) -> KeyProtection:
    return KeyProtection(kind=Protection.KEY_ENCRYPTION_KEY, secret=secret)


def _passphrase(secret: bytes) -> KeyProtection:
    # Editors and `echo` end a file with a line end that nobody types at a prompt.
    line = secret.removesuffix(b"\n").removesuffix(b"\r")
    return KeyProtection(kind=Protection.PASSPHRASE, secret=line)


def _environment(given: Mapping[str, str] | None) -> Mapping[str, str]:
    return os.environ if given is None else given  # noqa: TID251 - configuration is read here
