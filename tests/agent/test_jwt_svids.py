"""JWT-SVIDs for workloads: from the authority, from the cache, and checked."""

import asyncio
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from legation.agent.identities.jwt_svids import LEEWAY, MAX_KEPT, JWTSVIDs
from legation.causes import Cause
from legation.clock import FixedClock
from legation.errors import InvalidInput, NotPermitted, Unavailable, VerificationError
from legation.pki import SpiffeID, TrustBundle, TrustDomain, generate_key
from legation.pki.jwt_svid import (
    JWTSVIDContents,
    certificate_thumbprint,
    check_binding,
    sign_jwt_svid,
)
from legation.wire.feed import Ban, FeedState
from legation.wire.protobuf import workload_pb2 as pb

START = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
HOME, PARTNER = TrustDomain("example.org"), TrustDomain("partner.test")
MINE = (f"unix:uid:{os.getuid()}",)
LIFETIME = timedelta(minutes=5)


class Issuer:
    """An authority that counts."""

    def __init__(self, clock):
        self.clock, self.asked, self.error = clock, [], None
        self.gate = asyncio.Event()
        self.gate.set()
        self.key = generate_key()

    async def issue_jwt(self, entry_id, audience, *, certificate_thumbprint):
        self.asked.append((entry_id, audience, certificate_thumbprint))
        await self.gate.wait()
        if self.error:
            raise self.error
        end = self.clock.now() + LIFETIME
        contents = JWTSVIDContents(
            spiffe_id=SpiffeID(HOME, "/api"),
            audience=audience,
            issued_at=self.clock.now(),
            expires_at=end,
            token_id=str(len(self.asked)),
            certificate_thumbprint=certificate_thumbprint,
        )
        return sign_jwt_svid(self.key, key_id="k1", contents=contents), end


class Identities:
    def __init__(self, issuer):
        self.state = FeedState()
        for name in (HOME, PARTNER):
            self.state.bundles[name.name] = TrustBundle(
                name, jwt_authorities={"k1": issuer.key.public_key()}
            )


class Entry:
    id = "e1"


class Identity:
    entry, chain = Entry, (b"leaf", b"issuer")


@pytest.fixture
def clock():
    return FixedClock(START)


@pytest.fixture
def issuer(clock):
    return Issuer(clock)


@pytest.fixture
def identities(issuer):
    return Identities(issuer)


@pytest.fixture
def tokens(identities, issuer, clock):
    return JWTSVIDs(identities, issuer, clock)


async def test_a_token_is_kept_until_half_of_its_time_is_over(tokens, issuer, clock):
    """Then the next one is fetched; the order of audiences makes no difference."""
    first = await tokens.fetch(Identity, ["db", "mail"])
    clock.advance(149)
    assert await tokens.fetch(Identity, ["mail", "db", "db"]) == first
    assert len(issuer.asked) == 1
    clock.advance(1)
    assert await tokens.fetch(Identity, ["db", "mail"]) != first
    assert await tokens.fetch(Identity, ["db"])
    assert [audience for _, audience, _ in issuer.asked] == [
        ("db", "mail"),
        ("db", "mail"),
        ("db",),
    ]


async def test_an_outage_costs_nobody_a_token_that_still_holds(tokens, issuer, clock):
    """The kept one is handed out to its end, and then the caller is told why there is none."""
    first = await tokens.fetch(Identity, ["db"])
    issuer.error = Unavailable("the authority cannot be reached")
    clock.advance(298)
    assert await tokens.fetch(Identity, ["db"]) == first
    clock.advance(1)
    with pytest.raises(Unavailable, match="cannot be reached"):
        await tokens.fetch(Identity, ["db"])


async def test_what_the_authority_refuses_is_not_handed_out_any_more(tokens, issuer, clock):
    """A refusal is not an outage: the kept token is forgotten."""
    await tokens.fetch(Identity, ["db"])
    clock.advance(200)
    issuer.error = NotPermitted("banned")
    for _ in range(2):
        with pytest.raises(NotPermitted):
            await tokens.fetch(Identity, ["db"])
    issuer.error = Unavailable("gone")
    with pytest.raises(Unavailable):
        await tokens.fetch(Identity, ["db"])


async def test_callers_at_once_share_one_request(tokens, issuer):
    """And one of them giving up takes it from nobody."""
    issuer.gate.clear()
    callers = [asyncio.create_task(tokens.fetch(Identity, ["db"])) for _ in range(5)]
    while not issuer.asked:
        await asyncio.sleep(0)
    callers[0].cancel()
    issuer.gate.set()
    found = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert len(set(found[1:])) == 1
    assert len(issuer.asked) == 1


async def test_what_is_kept_is_bounded(tokens, issuer, monkeypatch):
    """The longest unused token is the first to go."""
    monkeypatch.setattr("legation.agent.identities.jwt_svids.MAX_KEPT", 2)
    assert MAX_KEPT > 2
    for audience in ("a", "b", "a", "c", "a"):
        await tokens.fetch(Identity, [audience])
    assert [audience for _, (audience,), _ in issuer.asked] == ["a", "b", "c"]
    await tokens.fetch(Identity, ["b"])
    assert len(issuer.asked) == 4


async def test_a_bound_token_names_the_current_certificate(tokens, issuer):
    """A token that is bound is never handed out in place of one that is not."""
    bound = await tokens.fetch(Identity, ["db"], bound=True)
    free = await tokens.fetch(Identity, ["db"])
    assert [asked[2] for asked in issuer.asked] == [certificate_thumbprint(b"leaf"), None]
    issuer.clock.advance(0)
    check_binding(tokens.validate(bound, audience="db").claims, b"leaf")
    with pytest.raises(VerificationError):
        check_binding(tokens.validate(free, audience="db").claims, b"leaf")


async def test_an_audience_is_needed(tokens, issuer):
    """The authority is not even asked for a token that names nobody."""
    with pytest.raises(InvalidInput, match="needs an audience"):
        await tokens.fetch(Identity, [])
    assert issuer.asked == []


async def test_tokens_of_others_are_checked_by_their_bundles(tokens, issuer, identities, clock):
    """One of a federated trust domain is accepted, one of an unknown domain is not."""
    contents = JWTSVIDContents(
        spiffe_id=SpiffeID(PARTNER, "/shop"),
        audience=("api",),
        issued_at=START,
        expires_at=START + LIFETIME,
        token_id="1",
    )
    token = sign_jwt_svid(issuer.key, key_id="k1", contents=contents)
    assert tokens.validate(token, audience="api").spiffe_id == contents.spiffe_id
    clock.advance(LIFETIME.total_seconds())
    assert tokens.validate(token, audience="api")
    clock.advance(LEEWAY.total_seconds())
    with pytest.raises(VerificationError, match="token_expired"):
        tokens.validate(token, audience="api")
    del identities.state.bundles[PARTNER.name]
    with pytest.raises(VerificationError, match="wrong_trust_domain"):
        tokens.validate(token, audience="api")


async def test_the_token_of_a_banned_identity_is_refused(tokens, identities):
    """Though it was signed in time and has not expired: bans reach tokens, too."""
    token = await tokens.fetch(Identity, ["db"])
    api = f"spiffe://{HOME}/api"
    identities.state.bans[api] = Ban(spiffe_id=api, reason="keyCompromise", since=START)
    with pytest.raises(VerificationError) as refused:
        tokens.validate(token, audience="db")
    assert [failure.cause for failure in refused.value.failures] == [Cause.IDENTITY_BANNED]


# On the socket


class SpiffeClient:
    def __init__(self, settings):
        script = Path(__file__).with_name("spiffe_jwt_client.py")
        self._command = [sys.executable, str(script), str(settings.socket)]

    async def __aenter__(self):
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        return self

    async def __aexit__(self, *_):
        self._process.stdin.close()
        async with asyncio.timeout(20):
            await self._process.wait()

    async def ask(self, *words):
        self._process.stdin.write(" ".join(words).encode() + b"\n")
        async with asyncio.timeout(20):
            return (await self._process.stdout.readline()).decode().strip()


async def served(agent):
    async with asyncio.timeout(10):
        async for _ in agent.identities.watch():
            if any(row.serial for row in agent.identities.status()):
                return


async def test_the_spiffe_client_fetches_and_checks_tokens(authority, agent, make_entry, settings):
    """An independent client gets a token, its bundle and a verdict; a wrong audience fails."""
    authority.put_entry(make_entry(selectors=MINE))
    await served(agent)
    async with SpiffeClient(settings) as client:
        name, token = (await client.ask("fetch", "db")).split()
        assert name == "spiffe://example.org/api"
        assert token == authority.tokens[0]
        assert await client.ask("check", "db", token) == f"{name} ['db']"
        assert await client.ask("bundles") == "example.org:1"
        refused = await client.ask("check", "mail", token)
        assert "wrong_audience" in refused
        await authority.stop()
        assert (await client.ask("fetch", "db")).split()[1] == token
        assert "cannot be reached" in await client.ask("fetch", "mail")


async def test_a_process_without_identity_gets_no_token(authority, agent, settings, make_entry):
    """Neither any nor that of another workload."""
    async with SpiffeClient(settings) as client:
        assert "no identity is issued to this process" in await client.ask("fetch", "db")
    assert authority.tokens == []


async def test_calls_without_the_security_header_are_refused(agent, settings):
    """A caller that was tricked into relaying a request does not send it."""
    channel = Channel(path=str(settings.socket))
    for name, request, answer in (
        ("FetchJWTSVID", pb.JWTSVIDRequest(audience=["db"]), pb.JWTSVIDResponse),
        ("ValidateJWTSVID", pb.ValidateJWTSVIDRequest(), pb.ValidateJWTSVIDResponse),
    ):
        method = UnaryUnaryMethod(channel, f"/SpiffeWorkloadAPI/{name}", type(request), answer)
        with pytest.raises(GRPCError) as refused:
            await method(request)
        assert refused.value.status is Status.INVALID_ARGUMENT
    channel.close()


async def test_another_identity_than_one_s_own_is_refused(authority, agent, settings, make_entry):
    """A process can ask for one of several identities, and only of its own."""
    authority.put_entry(make_entry(selectors=MINE))
    await served(agent)
    channel = Channel(path=str(settings.socket))
    fetch = UnaryUnaryMethod(
        channel, "/SpiffeWorkloadAPI/FetchJWTSVID", pb.JWTSVIDRequest, pb.JWTSVIDResponse
    )
    header = {"workload.spiffe.io": "true"}
    own = "spiffe://example.org/api"
    bound = {**header, "legation-certificate-bound": "true"}
    answer = await fetch(pb.JWTSVIDRequest(audience=["db"], spiffe_id=own), metadata=bound)
    assert [svid.spiffe_id for svid in answer.svids] == [own]
    claims = agent.identities.state  # the token is checked below by its thumbprint
    assert claims.bundles
    assert "cnf" in _claims(answer.svids[0].svid)
    with pytest.raises(GRPCError) as refused:
        await fetch(
            pb.JWTSVIDRequest(audience=["db"], spiffe_id="spiffe://example.org/web"),
            metadata=header,
        )
    assert refused.value.status is Status.PERMISSION_DENIED
    channel.close()


def _claims(token):
    import jwt

    return jwt.decode(token, options={"verify_signature": False})
