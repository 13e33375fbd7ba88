"""Certificates of other authorities as evidence: the contract, and each way to forge one."""

import base64
from datetime import timedelta

import pytest

from legation.agent.evidence import Occasion
from legation.authority.attestation.challenges import LIFETIME_S, Challenges
from legation.authority.attestation.refusal import EvidenceRefused
from legation.authority.attestation.x509 import X509Attestor
from legation.causes import Cause
from legation.config.attestation import X509Evidence
from legation.errors import NotFound
from legation.pki import build_request, generate_key
from tests.authority.attestation.node_attestor_contract import (
    NodeAttestorContract,
    csr,
    now,
)
from tests.support.authority import TRUST_DOMAIN, agent_id
from tests.support.device_ca import DeviceCA

__all__ = ["csr"]

CHALLENGES = Challenges(bytes(range(32)))


@pytest.fixture(scope="module")
def maker(tmp_path_factory):
    return DeviceCA(tmp_path_factory.mktemp("maker") / "ca")


@pytest.fixture(scope="module")
def device(maker):
    return maker.device("1")


def attestor_of(maker, **changes):
    rules = X509Evidence(
        **{
            "name": "fleet",
            "roots_file": maker.root,
            "agent": "node-{common_name}",
            "allowed_agents": ("node-*",),
            **changes,
        }
    )
    return X509Attestor([rules], challenges=CHALLENGES, trust_domain=TRUST_DOMAIN)


@pytest.fixture
def attestor(maker):
    return attestor_of(maker)


def shown(device, csr, *, at=None, trust_domain=TRUST_DOMAIN.name, nonce=None):
    return dict(
        device.document(
            Occasion(
                trust_domain=trust_domain,
                csr=csr,
                challenge=lambda: nonce or CHALLENGES.new(at or now())[0],
            )
        )
    )


async def refusal(attestor, document, csr, at=None):
    with pytest.raises(EvidenceRefused) as caught:
        await attestor.attest(document, csr=csr, at=at or now())
    return caught.value.cause


class TestX509(NodeAttestorContract):
    """The suite."""

    members = ("chain_pem", "nonce", "signature")
    secret = "signature"

    @pytest.fixture
    def document(self, device, csr):
        return shown(device, csr)

    @pytest.fixture
    def forged(self, tmp_path, csr):
        return shown(DeviceCA(tmp_path / "forger").device("1"), csr)

    @pytest.fixture
    def over(self, document):
        return document, now() + timedelta(seconds=LIFETIME_S + 1)


async def test_a_nonce_of_someone_else_is_refused(attestor, device, csr):
    """Another authority's, an altered one, and none at all."""
    other = Challenges(bytes(32)).new(now())[0]
    own = bytearray(CHALLENGES.new(now())[0])
    own[0] ^= 1  # a later end
    for nonce in (other, bytes(own), b"x", bytes(56)):
        document = shown(device, csr, nonce=nonce)
        assert await refusal(attestor, document, csr) is Cause.WRONG_NONCE


async def test_a_signature_for_something_else_is_refused(attestor, device, csr):
    """Over another request, nonce or trust domain, or by another key."""
    other = build_request(generate_key())
    stolen = {**shown(device, csr), "nonce": base64.b64encode(CHALLENGES.new(now())[0]).decode()}
    for document in (
        shown(device, other),
        shown(device, csr, trust_domain="other.example"),
        stolen,
        {**shown(device, csr), "signature": base64.b64encode(b"x" * 70).decode()},
    ):
        assert await refusal(attestor, document, csr) is Cause.EVIDENCE_FORGED


async def test_a_chain_without_its_signature_is_refused(attestor, device, csr):
    """A certificate is public; that it is shown proves nothing."""
    document = shown(device, csr)
    del document["signature"]
    assert await refusal(attestor, document, csr) is Cause.EVIDENCE_UNSIGNED


async def test_an_expired_certificate_is_refused(attestor, maker, csr):
    """By the word for expired certificates."""
    old = maker.device("old", days=("20200101000000Z", "20210101000000Z"))
    assert await refusal(attestor, shown(old, csr), csr) is Cause.CERTIFICATE_EXPIRED


async def test_a_certificate_for_servers_is_refused(attestor, maker, csr):
    """What is only good to serve with does not enrol anyone."""
    server = maker.device("server", usage="serverAuth")
    assert await refusal(attestor, shown(server, csr), csr) is Cause.WRONG_USAGE


async def test_a_revoked_certificate_is_refused_as_soon_as_the_list_says_so(tmp_path, csr):
    """The list is read anew each time, and one that is needed and absent lets nobody in."""
    maker = DeviceCA(tmp_path / "ca")
    good, bad = maker.device("1"), maker.device("2")
    with pytest.raises(NotFound, match="crl"):
        attestor_of(maker, crl_files=(maker.crl,))
    maker.publish()
    attestor = attestor_of(maker, crl_files=(maker.crl,))
    assert await attestor.attest(shown(bad, csr), csr=csr, at=now())
    maker.publish("2")
    assert await refusal(attestor, shown(bad, csr), csr) is Cause.CERTIFICATE_REVOKED
    assert await attestor.attest(shown(good, csr), csr=csr, at=now())
    later = now() + timedelta(days=31)
    document = shown(good, csr, at=later)
    assert await refusal(attestor, document, csr, later) in {
        Cause.CERTIFICATE_EXPIRED, Cause.REVOCATION_DATA_STALE
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"require": {"organization": ("Example",)}}, None),
        ({"require": {"organization": ("Other",)}}, Cause.CLAIMS_NOT_PERMITTED),
        ({"require": {"dns_name": ("*.dc.example",)}, "agent": "node-1"}, None),
        ({"require": {"dns_name": ("*.example.com",)}}, Cause.CLAIMS_NOT_PERMITTED),
        ({"allowed_agents": ("edge-*",)}, Cause.CLAIMS_NOT_PERMITTED),
    ],
)
async def test_the_certificates_facts_decide(maker, device, csr, changes, cause):
    """What the table requires, and the names that it allows."""
    attestor = attestor_of(maker, **changes)
    if cause is None:
        node = await attestor.attest(shown(device, csr), csr=csr, at=now())
        assert node.agent == agent_id("node-1")
    else:
        assert await refusal(attestor, shown(device, csr), csr) is cause
