"""From configuration to what the authority, the agent and the proxy are told."""

from ipaddress import IPv4Address
from pathlib import Path

import pytest

from legation.agent.evidence.join_token import JoinToken
from legation.authority.keystore import Passphrase, RawKey
from legation.authority.settings import AuthoritySettings
from legation.cli.authority_settings import (
    KEY_FILE,
    encryption_key,
    key_file,
    with_status_port,
)
from legation.cli.run_agent import settings_of as agent_settings_of
from legation.config import AgentConfig, ServerConfig, load
from legation.errors import InvalidInput, NotFound
from legation.pki import KeyAlgorithm, certificates_to_pem
from tests.cli.conftest import CLI
from tests.support.pki import CA, make


def _server(**flags: object) -> ServerConfig:
    return load(ServerConfig, environment={}, flags={"trust_domain": "example.org", **flags}).config


def test_the_authority_is_told_what_the_configuration_says(tmp_path: Path) -> None:
    """Names are sorted into addresses and DNS names, durations become seconds."""
    settings = AuthoritySettings.from_config(
        _server(
            **{
                "data_dir": str(tmp_path),
                "names": ["ca.example.org", "10.0.0.1"],
                "listen.status": "0.0.0.0:9001",
                "certificates.default_lifetime": "30m",
                "certificates.issuer_key": "ed25519",
                "crl.refresh": "5m",
                "crl.shards": 8,
            }
        )
    )
    assert settings.dns_names == ("ca.example.org",)
    assert settings.ip_addresses == (IPv4Address("10.0.0.1"),)
    assert settings.status_url == "http://ca.example.org:9001"
    assert settings.workload_lifetime_s == 1800
    assert settings.issuer_algorithm is KeyAlgorithm.ED25519
    assert (settings.crl_refresh_s, settings.crl_shards) == (300, 8)


def test_a_free_status_port_is_chosen_before_certificates_name_it() -> None:
    """Port 0 becomes a real one, so that the URL in certificates is right; a given one stays."""
    chosen = with_status_port(_server(**{"listen.status": "127.0.0.1:0"}))
    assert chosen.listen.status.port > 0
    given = _server(**{"listen.status": "127.0.0.1:8080"})
    assert with_status_port(given) is given


def test_the_key_encryption_key_comes_from_where_it_was_put(tmp_path: Path) -> None:
    """By default a file in the data directory, made on demand; else what the file names."""
    config = _server(data_dir=str(tmp_path))
    assert key_file(config) == tmp_path / KEY_FILE
    with pytest.raises(NotFound, match="no key-encryption key"):
        encryption_key(config)
    made = encryption_key(config, create=True)
    assert isinstance(made, RawKey)
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert encryption_key(config, create=True).secret(b"") == made.secret(b"")
    phrase = tmp_path / "phrase"
    phrase.touch(mode=0o600)
    phrase.write_text("correct horse battery staple\n")
    config = _server(**{"keys.passphrase_file": str(phrase)})
    assert key_file(config) is None
    assert isinstance(encryption_key(config), Passphrase)


def test_a_new_agent_is_told_how_to_enrol(tmp_path: Path) -> None:
    """An agent that never joined gets token, address and roots."""
    bundle, token = tmp_path / "bundle.pem", tmp_path / "token"
    bundle.write_bytes(certificates_to_pem([make(CA).certificate]))
    token.touch(mode=0o600)
    token.write_text("secret-token\n")
    flags = {
        "data_dir": str(tmp_path / "agent"),
        "server.api": "ca.example.org:8443",
        "trust_bundle_file": str(bundle),
        "join_token_file": str(token),
        "rotation.renew_at_remaining": 0.5,
        "rotation.jitter": 0.2,
    }
    settings = agent_settings_of(load(AgentConfig, environment={}, flags=flags))
    assert settings.enrolment is not None
    assert settings.enrolment.authority == "ca.example.org:8443"
    assert settings.enrolment.evidence == JoinToken(token="secret-token")
    assert len(settings.enrolment.authorities) == 1
    assert (settings.timing.renew_at_remaining, settings.timing.spread) == (0.5, 0.2)
    assert str(settings.api) == "ca.example.org:8443"
    assert "secret-token" not in repr(settings)


def test_an_agent_without_a_token_says_how_to_get_one(cli: CLI, tmp_path: Path) -> None:
    """The first start without a token ends with 5 and the command that makes one."""
    ended = cli("agent", "run", "--data-dir", tmp_path / "agent")
    assert ended.status == 5
    assert "legation token create" in ended.err


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("server", "run"), 2, "trust_domain: required"),
        (("server", "run", "--config", "/nonexistent.toml"), 5, "no configuration file"),
        (("server", "run", "--trust-domain", "Example"), 2, "flag: trust_domain"),
        (("agent", "run", "--log-level", "loud"), 2, "flag: log.level"),
        (("proxy", "run", "--inbound", "127.0.0.1:1=127.0.0.1:2", "--envoy", "/nonexistent"), 2,
         "not an executable"),
    ],
)  # fmt: skip
def test_a_service_that_cannot_start_says_why(
    arguments: tuple[str, ...], status: int, said: str, cli: CLI
) -> None:
    """A bad configuration ends the command before anything runs, naming key and origin."""
    ended = cli(*arguments)
    assert ended.status == status
    assert said in ended.err


def test_an_authority_that_was_never_made_says_so(cli: CLI, tmp_path: Path) -> None:
    """Running without `server init` is refused with the command to run."""
    flags = ("--trust-domain", "example.org", "--data-dir", tmp_path / "none")
    ended = cli("server", "run", *flags)
    assert ended.status in {2, 5}
    assert "Traceback" not in ended.err


def test_a_wrong_passphrase_variable_is_named(tmp_path: Path) -> None:
    """A secret that is configured and absent is an error that names it."""
    config = _server(**{"keys.passphrase_env": "LEGATION_TEST_NO_SUCH_VARIABLE"})
    with pytest.raises((NotFound, InvalidInput), match="LEGATION_TEST_NO_SUCH_VARIABLE"):
        encryption_key(config)
