"""Tokens of OpenID Connect issuers as evidence: the contract, and each way to forge one."""

import base64
import json
import time
from datetime import UTC, datetime, timedelta

import pytest
from joserfc import jws
from joserfc.jwk import ECKey, OctKey, RSAKey

from legation.authority.attestation.issuer_keys import (
    REFRESH_S,
    STALE_S,
    UNKNOWN_KEY_S,
    IssuerKeys,
)
from legation.authority.attestation.oidc import MAX_TOKEN, OIDCAttestor, Token, TrustedIssuer
from legation.authority.attestation.refusal import EvidenceRefused
from legation.causes import Cause
from legation.clock import FixedClock
from legation.config.attestation import OIDCEvidence
from legation.errors import Unavailable
from tests.authority.attestation.node_attestor_contract import (
    NodeAttestorContract,
    csr,
    now,
)
from tests.support.authority import TRUST_DOMAIN, agent_id
from tests.support.identity_provider import AUDIENCE, DEFAULT_ISSUER, IdentityProvider

__all__ = ["csr"]

RULES = {
    "name": "ci",
    "issuer": DEFAULT_ISSUER,
    "audience": AUDIENCE,
    "require": {"repository": ("octo/*",), "ref": ("refs/heads/main",)},
    "agent": "node-1",
    "allowed_agents": ("node-*", "ci__*"),
}


@pytest.fixture
def provider():
    return IdentityProvider()


@pytest.fixture
def clock():
    return FixedClock(datetime.now(UTC))


def attestor_of(provider, clock, *tables, **changes):
    rules = [OIDCEvidence(**{**RULES, **table, **changes}) for table in tables or ({},)]
    issuers = [
        TrustedIssuer(rules=one, keys=IssuerKeys(one.issuer, clock=clock, fetch=provider.fetch))
        for one in rules
    ]
    return OIDCAttestor(issuers, trust_domain=TRUST_DOMAIN)


@pytest.fixture
def attestor(provider, clock):
    return attestor_of(provider, clock)


async def refusal(attestor, token, at=None):
    with pytest.raises(EvidenceRefused) as caught:
        await attestor.attest({"token": token}, csr=b"", at=at or now())
    return caught.value


class TestOIDC(NodeAttestorContract):
    """The suite."""

    members = ("token",)
    secret = "token"

    @pytest.fixture
    def document(self, provider):
        return {"token": provider.token()}

    @pytest.fixture
    def forged(self, provider):
        return {"token": provider.token(key=ECKey.generate_key("P-256"))}

    @pytest.fixture
    def over(self, document):
        return document, now() + timedelta(seconds=361)


def unsigned(provider, algorithm="none", signature=""):
    parts = ({"alg": algorithm, "kid": "k1"}, provider.claims())
    texts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts
    ]
    return ".".join([*texts, signature])


@pytest.mark.parametrize(
    "token",
    [
        unsigned,
        lambda p: unsigned(p, "NONE"),
        lambda p: unsigned(p, "none", "c2lnbmVk"),
        lambda p: p.token().rpartition(".")[0] + ".",
    ],
)
async def test_an_unsigned_token_is_refused(attestor, provider, token):
    """The algorithm "none", however it is written, and a signature that was cut off."""
    assert (await refusal(attestor, token(provider))).cause is Cause.EVIDENCE_UNSIGNED


async def test_a_token_signed_with_the_public_key_as_a_secret_is_refused(attestor, provider):
    """HS256 keyed with what everybody can fetch is the oldest forgery there is."""
    public = provider.keys["k1"].as_pem(private=False)
    token = jws.serialize_compact(
        {"alg": "HS256", "kid": "k1"},
        json.dumps(provider.claims()),
        OctKey.import_key(public.replace(b"-", b"_")),
        algorithms=["HS256"],
    )
    error = await refusal(attestor, token)
    assert (error.cause, "HS256" in error.message) == (Cause.EVIDENCE_FORGED, True)


@pytest.mark.parametrize("part", [0, 1, 2])
async def test_an_altered_token_is_refused(attestor, provider, part):
    """Header, claims or signature: one changed byte is enough."""
    parts = provider.token().split(".")
    other = provider.token(ref="refs/heads/other").split(".")
    parts[part] = parts[part][:-6] + "AAAAAA" if part == 2 else other[part]
    if part == 0:
        header = {"alg": "ES256", "kid": "k1", "typ": "x"}
        parts[0] = base64.urlsafe_b64encode(json.dumps(header).encode()).decode().rstrip("=")
    assert (await refusal(attestor, ".".join(parts))).cause is Cause.EVIDENCE_FORGED


@pytest.mark.parametrize(
    ("header", "detail"),
    [
        ({"kid": "k9"}, "publishes no key"),
        ({"kid": "k1", "alg": "ES384"}, "not an accepted algorithm"),
    ],
)
async def test_a_token_of_no_published_key_is_refused(attestor, provider, header, detail):
    """An unknown key, and an algorithm that was not allowed."""
    key = ECKey.generate_key("P-384" if "alg" in header else "P-256")
    error = await refusal(attestor, provider.token(key=key, header=header))
    assert (error.cause, detail in error.message) == (Cause.EVIDENCE_FORGED, True)


async def test_a_key_serves_its_own_algorithm_only(provider, clock):
    """A key that is published for one algorithm does not verify another."""
    provider.add_key("rsa", "RSA")
    documents = provider.documents()
    documents["/keys"]["keys"][1]["alg"] = "PS256"
    provider.documents = lambda: documents
    attestor = attestor_of(provider, clock, algorithms=("RS256", "PS256"))
    token = provider.token(header={"alg": "RS256", "kid": "rsa"})
    assert "the key is for 'PS256'" in (await refusal(attestor, token)).message
    good = provider.token(header={"alg": "PS256", "kid": "rsa"})
    assert await attestor.attest({"token": good}, csr=b"", at=now())


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"aud": "someone-else"}, Cause.WRONG_AUDIENCE),
        ({"aud": None}, Cause.WRONG_AUDIENCE),
        ({"aud": [f"{AUDIENCE}/"]}, Cause.WRONG_AUDIENCE),
        ({"iss": "https://evil.example"}, Cause.UNKNOWN_ISSUER),
        ({"iss": f"{DEFAULT_ISSUER}/"}, Cause.UNKNOWN_ISSUER),
        ({"iss": None}, Cause.UNKNOWN_ISSUER),
        ({"iss": [DEFAULT_ISSUER]}, Cause.UNKNOWN_ISSUER),
        ({"repository": "evil/app"}, Cause.CLAIMS_NOT_PERMITTED),
        ({"repository": "evil/octo/app"}, Cause.CLAIMS_NOT_PERMITTED),
        ({"repository": None}, Cause.CLAIMS_NOT_PERMITTED),
        ({"repository": {"octo/app": 1}}, Cause.CLAIMS_NOT_PERMITTED),
        ({"ref": "refs/heads/main2"}, Cause.CLAIMS_NOT_PERMITTED),
        ({"ref": "refs/heads/main\n"}, Cause.CLAIMS_NOT_PERMITTED),
        ({"exp": None}, Cause.EVIDENCE_MALFORMED),
        ({"iat": None}, Cause.EVIDENCE_MALFORMED),
        ({"exp": "tomorrow"}, Cause.EVIDENCE_MALFORMED),
        ({"exp": True}, Cause.EVIDENCE_MALFORMED),
        ({"exp": 1e300}, Cause.EVIDENCE_MALFORMED),
        ({"exp": int(time.time()) - 3600}, Cause.EVIDENCE_EXPIRED),
        ({"nbf": int(time.time()) + 3600}, Cause.EVIDENCE_EXPIRED),
        ({"iat": int(time.time()) + 3600, "nbf": None}, Cause.EVIDENCE_EXPIRED),
        ({"exp": int(time.time()) + 86_400}, Cause.EVIDENCE_EXPIRED),
    ],
)
async def test_a_token_for_another_purpose_is_refused(attestor, provider, changes, cause):
    """Audience, issuer, claims and times each have a cause of their own."""
    assert (await refusal(attestor, provider.token(**changes))).cause is cause


async def test_clocks_may_differ_by_the_stated_skew(attestor, provider):
    """A minute is forgiven, and not more."""
    token = provider.token()
    assert await attestor.attest({"token": token}, csr=b"", at=now() - timedelta(seconds=55))
    assert await attestor.attest({"token": token}, csr=b"", at=now() + timedelta(seconds=355))
    for skew in (-65, 365):
        error = await refusal(attestor, token, now() + timedelta(seconds=skew))
        assert error.cause is Cause.EVIDENCE_EXPIRED


@pytest.mark.parametrize(
    "token",
    [
        "a.b", "a.b.c.d", "!.b.c", "bnVsbA.e30.c", "W10.e30.c", "e30=.e30.c",
        "a" * (MAX_TOKEN + 1), "eyJhIjoxLCJhIjoyfQ.e30.c", "e30.e30.c",
    ],
)  # fmt: skip
async def test_what_is_no_token_is_refused(attestor, token):
    """Anything but three parts of Base64 with JSON objects in them."""
    cause = (await refusal(attestor, token)).cause
    assert cause in {Cause.EVIDENCE_MALFORMED, Cause.EVIDENCE_UNSIGNED}


async def test_critical_header_fields_are_not_passed_over(attestor, provider):
    """RFC 7515, section 4.1.11: what is critical and not understood is refused."""
    parts = provider.token().split(".")
    header = {"alg": "ES256", "kid": "k1", "crit": ["b64"], "b64": False}
    parts[0] = base64.urlsafe_b64encode(json.dumps(header).encode()).decode().rstrip("=")
    assert (await refusal(attestor, ".".join(parts))).cause is Cause.EVIDENCE_MALFORMED


async def test_the_name_is_made_of_claims_and_two_jobs_never_share_one(provider, clock):
    """Values are encoded, so that no repository can take another's name."""
    attestor = attestor_of(provider, clock, agent="ci__{repository}__{run_id}")
    names = set()
    for repository, run_id in (
        ("octo/app", "17"), ("octo/app__1", "7"), ("octo/app_2f1", "7"), ("octo/a.p-p", "17")
    ):  # fmt: skip
        token = provider.token(repository=repository, run_id=run_id)
        node = await attestor.attest({"token": token}, csr=b"", at=now())
        names.add(node.agent)
    assert len(names) == 4
    assert agent_id("ci__octo_2fapp__17") in names


@pytest.mark.parametrize(
    ("agent", "changes"),
    [
        ("ci__{repository}", {"repository": ["octo/a", "octo/b"]}),
        ("ci__{absent}", {}),
        ("other-{run_id}", {}),
        ("ci__{run_id}", {"run_id": "x" * 400}),
    ],
)
async def test_a_name_that_is_not_allowed_is_refused(provider, clock, agent, changes):
    """Several values, none, a name outside of the pattern, and one that is too long."""
    attestor = attestor_of(provider, clock, agent=agent)
    error = await refusal(attestor, provider.token(**changes))
    assert error.cause is Cause.CLAIMS_NOT_PERMITTED


async def test_one_issuer_may_have_several_tables(provider, clock):
    """The first whose rules fit decides; when none does, the refusal speaks of claims."""
    attestor = attestor_of(
        provider, clock,
        {"name": "a", "audience": "other"},
        {"name": "b", "require": {"ref": ("refs/heads/*",)}, "agent": "node-b"},
    )  # fmt: skip
    token = provider.token(ref="refs/heads/topic")
    node = await attestor.attest({"token": token}, csr=b"", at=now())
    assert (node.agent, node.evidence) == (agent_id("node-b"), "oidc b")
    error = await refusal(attestor, provider.token(ref="refs/tags/1"))
    assert error.cause is Cause.CLAIMS_NOT_PERMITTED


async def test_a_token_is_known_again_by_its_id_or_by_what_is_signed(provider):
    """A second signature over the same claims does not make a second token."""
    with_id = [Token.read(provider.token(jti="same", run_id=str(n))).digest() for n in (1, 2)]
    assert with_id[0] == with_id[1]
    claims = {"jti": None, "iat": 1, "exp": 2, "nbf": 1}
    twice = [Token.read(provider.token(**claims)) for _ in range(2)]
    assert twice[0].text != twice[1].text  # ECDSA signs with a fresh number each time
    assert twice[0].digest() == twice[1].digest()
    assert Token.read(provider.token(**claims, run_id="2")).digest() != twice[0].digest()


# The issuer's keys


async def test_keys_are_fetched_once_and_again_when_a_key_is_unknown(provider, clock, attestor):
    """A new key of the issuer is found at once; asking for unknown ones is bounded."""
    for _ in range(3):
        await attestor.attest({"token": provider.token()}, csr=b"", at=now())
    assert len(provider.fetched) == 2
    clock.advance(UNKNOWN_KEY_S)
    provider.add_key("k2")
    await attestor.attest({"token": provider.token(header={"kid": "k2"})}, csr=b"", at=now())
    assert len(provider.fetched) == 4
    stranger = ECKey.generate_key("P-256")
    for n in range(20):
        await refusal(attestor, provider.token(key=stranger, header={"kid": f"x{n}"}))
    assert len(provider.fetched) == 4
    clock.advance(UNKNOWN_KEY_S)
    await refusal(attestor, provider.token(key=stranger, header={"kid": "x"}))
    assert len(provider.fetched) == 6


async def test_a_withdrawn_key_stops_counting(provider, clock, attestor):
    """Within the time after which keys are fetched anew."""
    token = provider.token()
    await attestor.attest({"token": token}, csr=b"", at=now())
    provider.keys = {"k2": RSAKey.generate_key(2048)}
    clock.advance(REFRESH_S + 1)
    assert (await refusal(attestor, token)).cause is Cause.EVIDENCE_FORGED


async def test_an_issuer_that_is_away_is_believed_for_a_day(provider, clock, attestor):
    """Known keys go on counting while it cannot be reached, and then nobody gets in."""
    token = provider.token()
    await attestor.attest({"token": token}, csr=b"", at=now())
    provider.down = True
    clock.advance(STALE_S - 1)
    await attestor.attest({"token": token}, csr=b"", at=now())
    clock.advance(2)
    with pytest.raises(Unavailable, match="cannot be had"):
        await attestor.attest({"token": token}, csr=b"", at=now())


async def test_an_issuer_that_was_never_reached_lets_nobody_in(provider, attestor):
    """It is asked again for the next one."""
    provider.down = True
    with pytest.raises(Unavailable):
        await attestor.attest({"token": provider.token()}, csr=b"", at=now())
    provider.down = False
    assert await attestor.attest({"token": provider.token()}, csr=b"", at=now())


async def test_a_configuration_of_another_issuer_is_refused(provider, attestor):
    """Discovery, section 4.3: the issuer's own name stands in its configuration."""
    provider.configured_issuer = "https://evil.example"
    with pytest.raises(Unavailable, match="of its own name"):
        await attestor.attest({"token": provider.token()}, csr=b"", at=now())
