"""Private keys at rest."""

import dataclasses
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from legation.authority.keystore import (
    FEED_KEY,
    ISSUING_KEY,
    KeyStore,
    Passphrase,
    RawKey,
    create_key_file,
    feed_key,
    read_key_file,
)
from legation.errors import InternalError, InvalidInput, NotFound
from legation.pki import KeyAlgorithm, generate_key, private_key_to_der

NOW = datetime(2031, 1, 1, tzinfo=UTC)
KEK = RawKey(bytes(range(32)))
SALT = b"0123456789abcdef"


@pytest.mark.parametrize(
    "algorithm",
    [KeyAlgorithm.P256, KeyAlgorithm.P384, KeyAlgorithm.ED25519, KeyAlgorithm.ML_DSA_65],
)
def test_a_key_comes_back(algorithm: KeyAlgorithm) -> None:
    """What was wrapped is unwrapped, whatever its kind, and the envelope hides it."""
    key = generate_key(algorithm)
    wrapped = KeyStore(KEK, SALT).wrap("k1", ISSUING_KEY, key, at=NOW)
    assert wrapped.algorithm == algorithm
    plain = private_key_to_der(key)
    assert plain[-32:] not in wrapped.envelope
    assert private_key_to_der(KeyStore(KEK, SALT).unwrap(wrapped)) == plain


def test_the_same_key_is_never_sealed_alike() -> None:
    """Each envelope has a nonce of its own."""
    key, store = generate_key(), KeyStore(KEK, SALT)
    first, second = (store.wrap("k1", ISSUING_KEY, key, at=NOW) for _ in range(2))
    assert first.envelope != second.envelope


@pytest.mark.parametrize(
    "change",
    [
        {"id": "k2"},
        {"purpose": FEED_KEY},
        {"envelope": b""},
        {"envelope": bytes(64)},
        "flip the last bit",
        "another key-encryption key",
    ],
    ids=str,
)
def test_an_envelope_opens_in_its_own_place_only(change: object) -> None:
    """Moved, altered or under another key it stays shut, and the error says what to do."""
    wrapped = KeyStore(KEK, SALT).wrap("k1", ISSUING_KEY, generate_key(), at=NOW)
    store = KeyStore(KEK, SALT)
    if isinstance(change, dict):
        wrapped = dataclasses.replace(wrapped, **change)
    elif change == "flip the last bit":
        envelope = wrapped.envelope[:-1] + bytes([wrapped.envelope[-1] ^ 1])
        wrapped = dataclasses.replace(wrapped, envelope=envelope)
    else:
        store = KeyStore(RawKey(bytes(32)), SALT)
    with pytest.raises(InvalidInput, match="does not open the") as caught:
        store.unwrap(wrapped)
    assert "initialised with" in str(caught.value)


def test_a_passphrase_opens_what_it_closed() -> None:
    """The same passphrase and salt give the same key; another of either does not."""
    wrapped = KeyStore(Passphrase(b"correct horse battery"), SALT).wrap(
        "k1", ISSUING_KEY, generate_key(), at=NOW
    )
    assert KeyStore(Passphrase(b"correct horse battery"), SALT).unwrap(wrapped)
    for other in (
        KeyStore(Passphrase(b"correct horse batterz"), SALT),
        KeyStore(Passphrase(b"correct horse battery"), SALT[::-1]),
    ):
        with pytest.raises(InvalidInput, match="does not open"):
            other.unwrap(wrapped)


def test_a_short_passphrase_is_refused() -> None:
    """Eleven bytes are too few."""
    with pytest.raises(InvalidInput, match="shorter than 12 bytes"):
        Passphrase(b"short-words")


def test_a_key_file_is_made_once_and_for_its_owner(tmp_path: Path) -> None:
    """Mode 0600, 32 random bytes, never replaced, and read back."""
    path = tmp_path / "kek"
    made = create_key_file(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert made.secret(b"") == read_key_file(path).secret(b"") == path.read_bytes()
    assert len(path.read_bytes()) == 32
    with pytest.raises(InvalidInput, match="exists already"):
        create_key_file(path)
    with pytest.raises(InvalidInput, match="cannot be written"):
        create_key_file(tmp_path / "nowhere" / "kek")


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """The error names the command that helps."""
    path = tmp_path / "kek"
    create_key_file(path)
    path.chmod(0o640)
    with pytest.raises(InvalidInput, match="others than the owner") as caught:
        read_key_file(path)
    assert "chmod 600" in str(caught.value)


@pytest.mark.parametrize("size", [0, 16, 31, 33, 100_000])
def test_a_key_file_of_another_size_is_refused(tmp_path: Path, size: int) -> None:
    """It holds 32 bytes or it is not a key file."""
    path = tmp_path / "kek"
    path.write_bytes(bytes(size))
    path.chmod(0o600)
    with pytest.raises(InvalidInput, match="must have 32"):
        read_key_file(path)


def test_a_missing_key_file_is_named(tmp_path: Path) -> None:
    """And a directory in its place is no key file either."""
    with pytest.raises(NotFound, match="no key-encryption key at"):
        read_key_file(tmp_path / "kek")
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_key_file(tmp_path)


def test_nothing_secret_is_shown() -> None:
    """A wrapped key and a key-encryption key keep their bytes out of their repr."""
    wrapped = KeyStore(KEK, SALT).wrap("k1", ISSUING_KEY, generate_key(), at=NOW)
    assert "envelope" not in repr(wrapped)
    assert "\\x00\\x01" not in repr(KEK)


def test_the_newest_feed_key_signs() -> None:
    """Of several the last; without one there is no feed."""
    store = KeyStore(KEK, SALT)
    keys = [generate_key(KeyAlgorithm.P256) for _ in range(2)]
    wrapped = [store.wrap(f"k{n}", FEED_KEY, key, at=NOW) for n, key in enumerate(keys)]
    chosen = feed_key(wrapped, store.unwrap_all(wrapped))
    assert private_key_to_der(chosen) == private_key_to_der(keys[1])
    with pytest.raises(InternalError, match="no feed key"):
        feed_key([], {})
