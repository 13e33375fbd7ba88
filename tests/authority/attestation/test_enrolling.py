"""Enrolling with evidence at the real authority, by the real agent, over real TLS."""

import contextlib
from dataclasses import dataclass, field

import pytest

from legation.agent.enrolment import enrol
from legation.agent.evidence import GivenToken, OIDCToken, X509Possession
from legation.authority.events import Enrolled
from legation.clock import SystemClock
from legation.config.attestation import NodeAttestation
from legation.errors import LegationError, NotAuthenticated, NotPermitted
from tests.authority.attestation.test_oidc import RULES
from tests.support.authority import ADMIN, agent_id, running, settings_for
from tests.support.device_ca import DeviceCA
from tests.support.identity_provider import served_in


@dataclass
class Recorded:
    """Evidence that shows the same document again and again."""

    evidence: X509Possession
    documents: list = field(default_factory=list)

    @property
    def kind(self):
        return self.evidence.kind

    def document(self, occasion):
        if not self.documents:
            self.documents.append(self.evidence.document(occasion))
        return self.documents[0]


@pytest.fixture(scope="module")
def maker(tmp_path_factory):
    return DeviceCA(tmp_path_factory.mktemp("maker") / "ca")


@pytest.fixture(scope="module")
def issuer(tmp_path_factory):
    """An issuer over HTTPS, with a certificate that openssl made."""
    with served_in(tmp_path_factory.mktemp("issuer")) as issuer:
        yield issuer


@contextlib.asynccontextmanager
async def world_with(tmp_path, *, x509=(), oidc=()):
    attestation = NodeAttestation(x509=x509, oidc=oidc)
    async with running(settings_for(tmp_path, attestation=attestation)) as world:
        yield world


def fleet(maker):
    return {
        "name": "fleet",
        "roots_file": str(maker.root),
        "agent": "node-{common_name}",
        "allowed_agents": ["node-*"],
    }


def ci(issuer):
    return {**RULES, "issuer": issuer.issuer, "roots_file": str(issuer.roots)}


async def join(world, evidence):
    identity, _ = await enrol(await world.invitation(evidence=evidence), clock=SystemClock())
    return identity


async def test_a_device_enrols_and_may_enrol_again(tmp_path, maker):
    """With its own certificate; the audit log says by what."""
    async with world_with(tmp_path, x509=[fleet(maker)]) as world:
        device = maker.device("a")
        for _ in range(2):
            assert (await join(world, device)).spiffe_id == agent_id("node-a")
        (entry, *_) = [
            entry
            for entry in await world.services.audit.read(after=0, limit=100)
            if entry.action == "agent.enrol"
        ]
        assert entry.detail["evidence"] == "x509 fleet"
        assert entry.detail["organization"] == "Example"
        assert [event.evidence for event in world.heard(Enrolled)] == ["x509 fleet"] * 2


async def test_a_recorded_proof_of_possession_lets_nobody_in_again(tmp_path, maker):
    """It is for the request it was made for; with that very request, the nonce is spent."""
    async with world_with(tmp_path, x509=[fleet(maker)]) as world:
        recorded = Recorded(maker.device("b"))
        await join(world, recorded)
        with pytest.raises(NotAuthenticated, match="evidence_forged"):
            await join(world, recorded)


async def test_a_banned_device_stays_out(tmp_path, maker):
    """A genuine certificate does not lift a ban."""
    async with world_with(tmp_path, x509=[fleet(maker)]) as world:
        device = maker.device("c")
        await join(world, device)
        await world.services.revocations.revoke_identity(
            agent_id("node-c"), reason="keyCompromise", ban=True, actor=ADMIN
        )
        with pytest.raises(NotPermitted, match="banned"):
            await join(world, device)


async def test_a_ci_job_enrols_once_with_its_token(tmp_path, issuer):
    """Keys come over HTTPS; the token lets one agent in, and the next is refused by name."""
    async with world_with(tmp_path, oidc=[ci(issuer)]) as world:
        evidence = OIDCToken(source=GivenToken(issuer.token()))
        assert (await join(world, evidence)).spiffe_id == agent_id("node-1")
        with pytest.raises(NotAuthenticated, match="evidence_replayed"):
            await join(world, evidence)
        other = OIDCToken(source=GivenToken(issuer.token(aud="someone")))
        with pytest.raises(NotAuthenticated, match="wrong_audience"):
            await join(world, other)


async def test_a_token_is_remembered_across_a_restart(tmp_path, issuer):
    """Being spent is in the same transaction as the agent, and durable."""
    evidence = OIDCToken(source=GivenToken(issuer.token()))
    settings = settings_for(tmp_path, attestation=NodeAttestation(oidc=[ci(issuer)]))
    async with running(settings) as world:
        await join(world, evidence)
        fingerprint = world.fingerprint
    async with running(settings, new=False) as world:
        world.fingerprint = fingerprint
        with pytest.raises(NotAuthenticated, match="evidence_replayed"):
            await join(world, evidence)


async def test_evidence_that_is_not_configured_is_refused(tmp_path, issuer):
    """An authority takes join tokens, and what it was told to take."""
    async with world_with(tmp_path) as world:
        with pytest.raises(NotAuthenticated, match="accepts no 'oidc'") as caught:
            await join(world, OIDCToken(source=GivenToken(issuer.token())))
        assert "join-token" in str(caught.value)


@pytest.mark.parametrize("case", ["status", "body", "roots"])
async def test_an_issuer_that_fails_lets_nobody_in(tmp_path, issuer, case):
    """Whatever it answers; and a server that is not the issuer's is not believed."""
    rules = ci(issuer)
    if case == "roots":
        rules["roots_file"] = str(DeviceCA(tmp_path / "other").root)
    async with world_with(tmp_path, oidc=[rules]) as world:
        try:
            issuer.status = 500 if case == "status" else 200
            issuer.body = b"x" * 300_000 if case == "body" else None
            with pytest.raises(LegationError) as caught:
                await join(world, OIDCToken(source=GivenToken(issuer.token())))
            assert caught.value.code == "unavailable"
        finally:
            issuer.status, issuer.body = 200, None
