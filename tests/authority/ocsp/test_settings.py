"""How the responder is configured."""

from datetime import timedelta

import pytest
from pydantic import ValidationError

from legation.authority.ocsp.responders import responder_lifetime_s
from legation.authority.settings import AuthoritySettings
from legation.config.server import ServerConfig
from legation.errors import InvalidInput
from legation.pki import OCSP
from tests.support.authority import settings_for


def config(**ocsp):
    return ServerConfig(trust_domain="example.org", status_url="http://status.example", ocsp=ocsp)


def test_an_answer_counts_as_long_as_a_list_unless_told_otherwise():
    """And is signed anew at half of that; no certificate names the responder."""
    settings = AuthoritySettings.from_config(config())
    assert (settings.ocsp_validity_s, settings.ocsp_refresh) == (3600, 1800)
    assert (settings.ocsp_enabled, settings.ocsp_url) == (True, None)


def test_all_of_it_can_be_set():
    """The configuration reaches the settings."""
    settings = AuthoritySettings.from_config(
        config(validity="12h", refresh="1h", in_certificates=True)
    )
    assert (settings.ocsp_validity_s, settings.ocsp_refresh) == (43_200, 3600)
    assert settings.ocsp_url == "http://status.example/ocsp"
    assert not AuthoritySettings.from_config(config(enabled=False)).ocsp_enabled


@pytest.mark.parametrize(
    ("ocsp", "words"),
    [
        ({"validity": "1h", "refresh": "31m"}, "more than half of ocsp.validity"),
        ({"enabled": False, "in_certificates": True}, "while ocsp.enabled is false"),
        ({"enable": True}, "enable"),
    ],
)
def test_what_makes_no_sense_is_refused(ocsp, words):
    """In words that name the key."""
    with pytest.raises(ValidationError, match=words):
        config(**ocsp)


def test_an_answer_needs_time_to_count(tmp_path):
    """Settings that are made elsewhere are held to the same."""
    with pytest.raises(InvalidInput, match="ocsp_validity_s must be positive"):
        settings_for(tmp_path, ocsp_validity_s=0)


@pytest.mark.parametrize("validity", [timedelta(minutes=1), timedelta(hours=1), timedelta(days=30)])
def test_a_delegate_outlives_two_answers(validity):
    """Whatever the validity: renewed at half, it still has more than one answer's time left."""
    seconds = int(validity.total_seconds())
    lifetime = responder_lifetime_s(seconds)
    assert lifetime / 2 >= seconds
    assert lifetime <= max(30 * 86_400, 2 * seconds)


def test_a_delegate_lives_no_longer_than_its_profile_allows():
    """However long an answer should count."""
    assert timedelta(seconds=responder_lifetime_s(365 * 86_400)) < OCSP.max_lifetime
