"""The agent's identity on its disk."""

import base64
import os

import pytest

from legation.agent import private_files
from legation.agent.identity import (
    AgentIdentity,
    IdentityStore,
    Membership,
    feed_keys_from,
    spiffe_id_of,
)
from legation.agent.private_files import make_private_directory, write_private
from legation.errors import InvalidInput, LegationError, NotFound, Unavailable
from legation.pki import generate_key
from tests.support.scripted_authority import AGENT_ID, ScriptedAuthority

# 65 bytes of the right form, and no point of P-256.
OFF_CURVE = base64.b64encode(b"\x04" + bytes(64)).decode()


@pytest.fixture(scope="module")
def stub():
    return ScriptedAuthority()


@pytest.fixture
def store(tmp_path):
    return IdentityStore(tmp_path / "agent")


def test_identity_and_membership_come_back(store, stub, tmp_path):
    """What was saved is loaded again, from private files in a private directory."""
    identity, membership = stub.identity(), stub.membership()
    store.save_enrolment(identity, membership)
    loaded, known = store.load()
    assert (loaded.spiffe_id, loaded.serial, loaded.chain) == (
        AGENT_ID,
        identity.serial,
        identity.chain,
    )
    assert known == membership
    assert store.enrolled
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "agent").iterdir()}
    assert (modes, (tmp_path / "agent").stat().st_mode & 0o777) == ({0o600}, 0o700)


def test_without_an_identity_the_remedy_is_named(store):
    """An agent that never enrolled says what to do."""
    assert not store.enrolled
    with pytest.raises(NotFound, match="token create"):
        store.load()


def test_a_failed_write_keeps_the_old_identity(store, stub, monkeypatch, tmp_path):
    """A crash before the rename leaves the old key and certificate, both, and no draft."""
    identity = stub.identity()
    store.save_enrolment(identity, stub.membership())

    def fail(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(private_files.os, "fsync", fail)
    with pytest.raises(Unavailable, match="No space"):
        store.save(stub.identity())
    monkeypatch.undo()
    assert store.load()[0].serial == identity.serial
    assert {path.name for path in (tmp_path / "agent").iterdir()} == {
        "agent.pem",
        "membership.json",
    }


def test_a_key_of_another_certificate_is_refused(stub):
    """A chain and a key that do not belong together are no identity."""
    with pytest.raises(InvalidInput, match="does not belong"):
        AgentIdentity.of(stub.identity().chain, generate_key())


def test_an_empty_chain_is_refused():
    """A key without a certificate is no identity."""
    with pytest.raises(InvalidInput):
        AgentIdentity.of((), generate_key())


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAA"])
def test_a_damaged_identity_file_is_an_error_not_a_traceback(store, stub, damage, tmp_path):
    """A file that is not what was written is refused in words."""
    store.save_enrolment(stub.identity(), stub.membership())
    (tmp_path / "agent" / "agent.pem").write_bytes(damage)
    with pytest.raises(InvalidInput):
        store.load()


NO_KEYS = b'{"trust_domain":"x","bundle":{},"feed_keys":[],"authority":"a","api_port":1}'


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", NO_KEYS])
def test_a_damaged_membership_file_is_an_error_not_a_traceback(damage):
    """A membership that is not one is refused in words."""
    with pytest.raises(InvalidInput):
        Membership.from_bytes(damage)


@pytest.mark.parametrize("keys", [[], ["?"], ["AAAA"], [7], [OFF_CURVE]])
def test_feed_keys_of_another_form_are_refused(keys):
    """Feed keys are at least one, points of the curve, in base64."""
    with pytest.raises(InvalidInput, match="feed key"):
        feed_keys_from(keys)


def test_secrets_do_not_show_in_representations(stub):
    """The identity's repr holds no private key."""
    assert "private_key" not in repr(stub.identity())


def test_a_certificate_without_uri_has_no_spiffe_id(stub):
    """A CA certificate of ours is not an SVID of anyone."""
    with pytest.raises(InvalidInput, match="0 URIs"):
        spiffe_id_of(stub.issuer.certificate)


def test_a_directory_open_to_others_is_closed(tmp_path):
    """An existing data directory of ours loses the permissions of others."""
    directory = tmp_path / "open"
    directory.mkdir(mode=0o777)
    make_private_directory(directory)
    assert directory.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to give a directory away")
def test_a_directory_of_another_user_is_refused(tmp_path):
    """A data directory that someone else owns is not used."""
    directory = tmp_path / "foreign"
    directory.mkdir()
    os.chown(directory, 65533, 65533)
    with pytest.raises(InvalidInput, match="belongs to user"):
        make_private_directory(directory)


def test_a_file_in_place_of_the_directory_is_refused(tmp_path):
    """A file where the data directory should be is reported."""
    (tmp_path / "file").touch()
    with pytest.raises(LegationError):
        make_private_directory(tmp_path / "file")
    with pytest.raises(Unavailable):
        write_private(tmp_path / "file" / "x", b"")
