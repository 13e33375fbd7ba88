"""Tests of reading secrets: from where, how large, and who else may read them."""

import os
from pathlib import Path

import pytest

from legation.config import AgentConfig, key_protection, load, read_join_token, read_secret
from legation.config.secret_files import Protection, read_credential
from legation.config.server import Keys
from legation.errors import InvalidInput, LimitExceeded, NotFound


def secret_file(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_a_secret_is_returned_byte_for_byte(tmp_path: Path) -> None:
    """A key that ends in 0x0a keeps it."""
    assert read_secret(secret_file(tmp_path / "k", b"\x00key\n")) == b"\x00key\n"


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o620, 0o601])
def test_a_secret_open_to_others_is_refused_with_the_command_that_closes_it(
    tmp_path: Path, mode: int
) -> None:
    """World access and group write are refused; the remedy is the command to run."""
    file = secret_file(tmp_path / "k", b"key", mode)
    with pytest.raises(InvalidInput, match="open to others") as caught:
        read_secret(file)
    assert caught.value.remedy == f"run: chmod 600 {file}"


def test_what_is_no_secret_file_is_refused(tmp_path: Path) -> None:
    """A missing, empty, huge file, a directory and a pipe each have their exact error."""
    with pytest.raises(NotFound, match="there is no secret file"):
        read_secret(tmp_path / "none")
    with pytest.raises(InvalidInput, match="is empty"):
        read_secret(secret_file(tmp_path / "empty", b"\n"))
    with pytest.raises(LimitExceeded, match="larger than 65536"):
        read_secret(secret_file(tmp_path / "huge", b"x" * 65537))
    with pytest.raises(InvalidInput, match="Is a directory"):
        read_secret(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(InvalidInput, match="not a regular file"):
        read_secret(tmp_path / "pipe")


def test_the_keys_protection_comes_from_the_one_source_named(tmp_path: Path) -> None:
    """Each form of [keys] yields its kind; a passphrase loses its line end, a key does not."""
    file = secret_file(tmp_path / "secret", b"s3cret\n")
    credentials = {"CREDENTIALS_DIRECTORY": str(tmp_path), "PASS": "s3cret"}

    def protection(**keys: object) -> tuple[Protection, bytes]:
        found = key_protection(Keys.model_validate(keys), environment=credentials)
        assert found is not None
        assert "s3cret" not in repr(found)
        return found.kind, found.secret

    assert protection(kek_file=file) == (Protection.KEY_ENCRYPTION_KEY, b"s3cret\n")
    assert protection(kek_credential="secret") == (Protection.KEY_ENCRYPTION_KEY, b"s3cret\n")
    assert protection(passphrase_file=file) == (Protection.PASSPHRASE, b"s3cret")
    assert protection(passphrase_credential="secret") == (Protection.PASSPHRASE, b"s3cret")
    assert protection(passphrase_env="PASS") == (Protection.PASSPHRASE, b"s3cret")
    assert key_protection(Keys(), environment=credentials) is None


def test_an_absent_credential_or_variable_is_named() -> None:
    """What systemd or the environment did not pass is named, with the remedy."""
    with pytest.raises(NotFound, match="CREDENTIALS_DIRECTORY is not set") as caught:
        read_credential("kek", environment={})
    assert "LoadCredential=" in (caught.value.remedy or "")
    with pytest.raises(NotFound, match="the environment variable PASS is not set"):
        key_protection(Keys(passphrase_env="PASS"), environment={})


def test_the_join_token_comes_from_file_credential_or_variable(tmp_path: Path) -> None:
    """A named file or credential comes before the variable; without any there is none."""
    file = secret_file(tmp_path / "token", b" from-file\n")
    environment = {"LEGATION_JOIN_TOKEN": "from-env", "CREDENTIALS_DIRECTORY": str(tmp_path)}

    def token(**flags: object) -> str | None:
        config = load(AgentConfig, environment={}, flags=flags).config
        return read_join_token(config, environment=environment)

    assert token(join_token_file=str(file)) == "from-file"
    assert token(join_token_credential="token") == "from-file"
    assert token() == "from-env"
    assert read_join_token(AgentConfig(), environment={}) is None
    secret_file(tmp_path / "bad", b"\xff\xfe")
    with pytest.raises(InvalidInput, match="the join token holds characters"):
        token(join_token_credential="bad")
