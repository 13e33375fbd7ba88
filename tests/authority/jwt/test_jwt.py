"""JWT-SVIDs from a running authority."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import jwt as pyjwt
import pytest

from legation.pki import SpiffeID, TrustBundle
from legation.pki.jwt_svid import certificate_thumbprint, verify_jwt_svid
from legation.wire.agent_calls import JWT_PATH
from legation.wire.protobuf import agent_pb2 as pb
from tests.support.authority import (
    ADMIN,
    TRUST_DOMAIN,
    Agent,
    Refused,
    World,
    _accepted,
    running,
    settings_for,
)

ISSUER = "https://oidc.example.org/td"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """An authority whose tokens name an issuer."""
    async with running(settings_for(tmp_path, jwt_issuer=ISSUER)) as world:
        yield world


def bundle_of(world: World) -> TrustBundle:
    return TrustBundle.from_document(TRUST_DOMAIN.name, world.services.status.bundle_document())


async def token_of(
    agent: Agent, entry_id: str, *audience: str, thumbprint: str = ""
) -> tuple[str, datetime]:
    request = pb.IssueJWTRequest(
        entry_id=entry_id, audience=audience, certificate_thumbprint=thumbprint
    )
    async with agent.connected() as caller:
        content = _accepted(await caller.post(JWT_PATH, request.SerializeToString()))
    answer = pb.IssueJWTResponse.FromString(content)
    return answer.token, datetime.fromtimestamp(answer.expires_at_ms / 1000, UTC)


async def refusal(agent: Agent, *arguments: str, **options: str) -> Refused:
    with pytest.raises(Refused) as caught:
        await token_of(agent, *arguments, **options)
    return caught.value


async def test_an_agent_gets_tokens_for_its_entries(world: World) -> None:
    """The token names the entry's identity, and stands in the audit log before it leaves."""
    agent = await world.enrol()
    entry = await world.entry(agent)
    token, expires_at = await token_of(agent, entry.id, "db", "mail")
    found = verify_jwt_svid(
        token,
        bundles={TRUST_DOMAIN: bundle_of(world)},
        audience="mail",
        at=datetime.now(UTC),
    )
    assert str(found.spiffe_id) == entry.spiffe_id
    assert found.expires_at == expires_at
    assert found.claims["iss"] == ISSUER
    entries = await world.services.audit.read(after=0, limit=100)
    (recorded,) = [row for row in entries if row.action == "jwt_svid.issue"]
    assert recorded.subject == entry.spiffe_id
    assert recorded.detail["jti"] == found.claims["jti"]
    assert recorded.detail["audience"] == ["db", "mail"]
    assert token not in str(recorded)


async def test_a_token_can_be_bound_to_a_certificate(world: World) -> None:
    """The claim `cnf` carries what the agent asked for; anything else is refused."""
    agent = await world.enrol()
    entry = await world.entry(agent)
    thumbprint = certificate_thumbprint(b"any")
    token, _ = await token_of(agent, entry.id, "db", thumbprint=thumbprint)
    claims = pyjwt.decode(token, options={"verify_signature": False})
    assert claims["cnf"] == {"x5t#S256": thumbprint}
    assert (await refusal(agent, entry.id, "db", thumbprint="short")).code == "invalid_input"


async def test_tokens_are_for_one_s_own_entries_and_a_named_audience(world: World) -> None:
    """Another agent's entry is not found, and a token for nobody is not signed."""
    agent, other = await world.enrol(), await world.enrol("two")
    entry = await world.entry(other)
    assert (await refusal(agent, entry.id, "db")).code == "not_found"
    assert (await refusal(other, entry.id)).message == "a JWT-SVID needs an audience"
    assert (await refusal(other, entry.id, "a" * 600)).code == "limit_exceeded"


async def test_a_banned_identity_gets_no_token(world: World) -> None:
    """Neither a banned workload nor an agent that was shut out gets one."""
    agent = await world.enrol()
    entry = await world.entry(agent)
    await world.services.revocations.revoke_identity(
        SpiffeID.parse(entry.spiffe_id), reason="keyCompromise", ban=True, actor=ADMIN
    )
    refused = await refusal(agent, entry.id, "db")
    assert refused.code == "not_permitted"
    assert refused.message == f"{entry.spiffe_id} is banned"


async def test_verifiers_find_the_keys_by_discovery(world: World) -> None:
    """An OpenID Connect library that knows only the issuer's documents accepts the token."""
    agent = await world.enrol()
    entry = await world.entry(agent)
    token, _ = await token_of(agent, entry.id, "sts.cloud.example")
    anyone = world.connect(None)
    discovery = (await anyone.ask("GET", "/.well-known/openid-configuration")).json
    assert discovery["issuer"] == ISSUER
    assert discovery["jwks_uri"] == f"{ISSUER}/.well-known/jwks.json"
    assert discovery["id_token_signing_alg_values_supported"] == ["ES256"]
    keys = pyjwt.PyJWKSet.from_dict((await anyone.ask("GET", "/.well-known/jwks.json")).json)
    key = keys[pyjwt.get_unverified_header(token)["kid"]]
    claims = pyjwt.decode(
        token, key, algorithms=["ES256"], audience="sts.cloud.example", issuer=ISSUER
    )
    assert claims["sub"] == entry.spiffe_id


async def test_without_an_issuer_there_is_nothing_to_discover(tmp_path: Path) -> None:
    """The answer says which setting is missing; the keys are there all the same."""
    async with running(settings_for(tmp_path)) as world:
        anyone = world.connect(None)
        answer = await anyone.ask("GET", "/.well-known/openid-configuration")
        assert (answer.status, answer.code) == (404, "not_found")
        assert "[jwt]" in answer.json["remedy"]
        assert len((await anyone.ask("GET", "/.well-known/jwks.json")).json["keys"]) == 1
