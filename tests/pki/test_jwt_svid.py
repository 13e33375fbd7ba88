"""JWT-SVIDs: signing, verification, and binding to certificates."""

import base64
import hmac
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from legation.causes import Cause
from legation.errors import InvalidInput, LimitExceeded, VerificationError
from legation.pki import KeyAlgorithm, SpiffeID, TrustBundle, TrustDomain, generate_key
from legation.pki.jwt_svid import (
    JWTSVIDContents,
    certificate_thumbprint,
    check_binding,
    sign_jwt_svid,
    verify_jwt_svid,
)

HOME = TrustDomain("example.org")
AT = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
KEYS = {
    name: generate_key(name)
    for name in (KeyAlgorithm.P256, KeyAlgorithm.P384, KeyAlgorithm.RSA_3072)
}
KEY = KEYS[KeyAlgorithm.P256]
CONTENTS = JWTSVIDContents(
    spiffe_id=SpiffeID.parse("spiffe://example.org/web"),
    audience=("api", "db"),
    issued_at=AT,
    expires_at=AT + timedelta(minutes=5),
    token_id="7f3a",
)


def bundles(**keys: Any) -> dict[TrustDomain, TrustBundle]:
    named = keys or {"k1": KEY}
    public = {name: key.public_key() for name, key in named.items()}
    return {HOME: TrustBundle(HOME, jwt_authorities=public)}


def encoded(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def signed(claims: Mapping[str, Any], **header: Any) -> str:
    """Sign whatever is asked for, with another library than ours."""
    return pyjwt.encode(dict(claims), KEY, algorithm="ES256", headers={"kid": "k1", **header})


def verify(token: str, **changes: Any) -> Any:
    arguments: dict[str, Any] = {"bundles": bundles(), "audience": "api", "at": AT}
    return verify_jwt_svid(token, **{**arguments, **changes})


def causes(token: str, **changes: Any) -> list[Cause]:
    with pytest.raises(VerificationError) as refused:
        verify(token, **changes)
    return [failure.cause for failure in refused.value.failures]


CLAIMS = {"sub": "spiffe://example.org/web", "aud": ["api"], "exp": AT.timestamp() + 300}


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_signed_token_says_who_bears_it(algorithm: KeyAlgorithm) -> None:
    """A token of every kind of key is accepted, and an independent library agrees."""
    key = KEYS[algorithm]
    token = sign_jwt_svid(key, key_id="k1", contents=replace(CONTENTS, issuer="https://o.example"))
    found = verify(token, bundles=bundles(k1=key), audience="db")
    assert found.spiffe_id == CONTENTS.spiffe_id
    assert found.audience == ("api", "db")
    assert found.expires_at == CONTENTS.expires_at
    assert found.certificate_thumbprint is None
    theirs = pyjwt.decode(
        token,
        key.public_key(),
        algorithms=["ES256", "ES384", "RS256"],
        audience="db",
        options={"verify_exp": False, "verify_iat": False},
    )
    assert theirs == found.claims
    assert theirs["iss"] == "https://o.example"
    assert theirs["jti"] == "7f3a"


def test_a_key_that_cannot_sign_tokens_is_refused() -> None:
    """The JWT-SVID standard has no Ed25519."""
    with pytest.raises(InvalidInput, match="P-256, P-384 or RSA"):
        sign_jwt_svid(generate_key(KeyAlgorithm.ED25519), key_id="k1", contents=CONTENTS)


@pytest.mark.parametrize(
    ("audience", "error", "words"),
    [
        ((), InvalidInput, "needs an audience"),
        (("api", ""), InvalidInput, "needs an audience"),
        (tuple(map(str, range(33))), LimitExceeded, "at most 32"),
        (("a" * 513,), LimitExceeded, "512 characters"),
    ],
)
def test_an_audience_is_named_and_bounded(
    audience: tuple[str, ...], error: type[Exception], words: str
) -> None:
    """A token for nobody, or for a crowd, is not signed."""
    with pytest.raises(error, match=words):
        sign_jwt_svid(KEY, key_id="k1", contents=replace(CONTENTS, audience=audience))


def test_tokens_of_other_libraries_are_accepted() -> None:
    """A single audience as text, no key id, a fractional time and another `typ` are allowed."""
    claims = {**CLAIMS, "aud": "api", "exp": AT.timestamp() + 0.5, "nbf": AT.timestamp()}
    assert verify(signed(claims, typ="JOSE")).audience == ("api",)
    token = pyjwt.encode(claims, KEY, algorithm="ES256")
    assert verify(token, bundles=bundles(other=KEYS[KeyAlgorithm.RSA_3072], k1=KEY))


def test_times_are_exact_but_for_the_stated_leeway() -> None:
    """A token holds until its expiry, not at it; leeway moves both ends."""
    token = sign_jwt_svid(KEY, key_id="k1", contents=CONTENTS)
    end = CONTENTS.expires_at
    assert verify(token, at=end - timedelta(seconds=1))
    assert causes(token, at=end) == [Cause.TOKEN_EXPIRED]
    assert verify(token, at=end + timedelta(seconds=9), leeway=timedelta(seconds=10))
    assert causes(token, at=end + timedelta(seconds=10), leeway=timedelta(seconds=10)) == [
        Cause.TOKEN_EXPIRED
    ]
    early = signed({**CLAIMS, "nbf": AT.timestamp() + 10})
    assert causes(early) == [Cause.TOKEN_NOT_YET_VALID]
    assert verify(early, leeway=timedelta(seconds=10))


def test_every_failed_check_of_a_genuine_token_is_reported() -> None:
    """A token that is both expired and meant for another says both."""
    token = sign_jwt_svid(KEY, key_id="k1", contents=CONTENTS)
    found = causes(token, audience="mail", at=CONTENTS.expires_at)
    assert found == [Cause.TOKEN_EXPIRED, Cause.WRONG_AUDIENCE]


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"exp": None}, Cause.MALFORMED_TOKEN),
        ({"exp": "soon"}, Cause.MALFORMED_TOKEN),
        ({"exp": True}, Cause.MALFORMED_TOKEN),
        ({"exp": 1e300}, Cause.MALFORMED_TOKEN),
        ({"sub": None}, Cause.MALFORMED_TOKEN),
        ({"sub": 7}, Cause.MALFORMED_TOKEN),
        ({"sub": "spiffe://example.org/web\n"}, Cause.MALFORMED_TOKEN),
        ({"sub": "spiffe://elsewhere.example/web"}, Cause.WRONG_TRUST_DOMAIN),
        ({"aud": None}, Cause.WRONG_AUDIENCE),
        ({"aud": [7]}, Cause.WRONG_AUDIENCE),
        ({"aud": ["mail"]}, Cause.WRONG_AUDIENCE),
        ({"cnf": "x"}, Cause.WRONG_BINDING),
        ({"cnf": {"jkt": "x"}}, Cause.WRONG_BINDING),
    ],
)
def test_a_genuine_token_with_an_unacceptable_claim_is_refused(
    changes: dict[str, Any], cause: Cause
) -> None:
    """Each claim is checked, also under a good signature."""
    claims = {**CLAIMS, **changes}
    payload = encoded({name: value for name, value in claims.items() if value is not None})
    # PyJWT refuses to write some of these, so only the signature is its own.
    token = pyjwt.api_jws.encode(
        base64.urlsafe_b64decode(payload + "=="), KEY, algorithm="ES256", headers={"kid": "k1"}
    )
    assert causes(token) == [cause]


def test_a_token_of_an_unknown_or_another_key_is_refused() -> None:
    """The key must be in the bundle, and must have made the signature."""
    token = sign_jwt_svid(KEY, key_id="k1", contents=CONTENTS)
    assert causes(token, bundles=bundles(k2=KEY)) == [Cause.UNKNOWN_AUTHORITY]
    impostor = generate_key()
    assert causes(token, bundles=bundles(k1=impostor)) == [Cause.BAD_SIGNATURE]
    rsa = KEYS[KeyAlgorithm.RSA_3072]
    assert causes(token, bundles=bundles(k1=rsa)) == [Cause.BAD_SIGNATURE]
    odd = TrustBundle(HOME, jwt_authorities={"k1": generate_key(KeyAlgorithm.ED25519).public_key()})
    assert causes(token, bundles={HOME: odd}) == [Cause.BAD_SIGNATURE]
    listed = f"{encoded({'alg': 'ES256', 'kid': ['k1']})}.{token.split('.', 1)[1]}"
    assert causes(listed) == [Cause.UNKNOWN_AUTHORITY]


@pytest.mark.parametrize("algorithm", ["none", "HS256", "EdDSA", 7])
def test_an_algorithm_outside_the_standard_is_refused(algorithm: object) -> None:
    """Neither an unsigned token nor one under a shared secret is ever believed."""
    body = f"{encoded({'alg': algorithm, 'kid': 'k1'})}.{encoded(CLAIMS)}"
    # Whoever takes the public key for a shared secret believes this one.
    secret = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    forged = base64.urlsafe_b64encode(hmac.digest(secret, body.encode(), "sha256")).rstrip(b"=")
    for signature in ("", forged.decode()):
        assert causes(f"{body}.{signature}") == [Cause.BAD_SIGNATURE]


@pytest.mark.parametrize(
    "token",
    [
        "",
        "a.b",
        "a.b.c.d",
        "é.b.c",
        f"{encoded([1])}.{encoded(CLAIMS)}.x",
        f"{encoded('{')}.{encoded(CLAIMS)}.x",
        f"{encoded({'alg': 'ES256'})}=.{encoded(CLAIMS)}.x",
        f"{encoded('[' * 3000)}.{encoded(CLAIMS)}.x",
        f"{encoded({'alg': 'ES256', 'crit': ['b64']})}.{encoded(CLAIMS)}.x",
        f"{encoded({'alg': 'ES256', 'jwk': {}})}.{encoded(CLAIMS)}.x",
        f"{encoded({'alg': 'ES256', 'typ': 'at+jwt'})}.{encoded(CLAIMS)}.x",
        f"{encoded({'alg': 'ES256', 'typ': {}})}.{encoded(CLAIMS)}.x",
        encoded({"alg": "ES256"}) + "." + encoded('{"sub":"a","sub":"b"}') + ".x",
        "a" * 8193,
    ],
)
def test_what_is_no_token_is_refused_as_such(token: str) -> None:
    """Anything but a small compact JWS with the standard's headers is malformed."""
    assert causes(token) == [Cause.MALFORMED_TOKEN]


@given(token=st.text(alphabet=st.characters(max_codepoint=0x17F), max_size=300))
def test_any_text_is_refused_with_a_cause(token: str) -> None:
    """No text makes the verifier raise anything but its own error."""
    assert causes(token)


@given(position=st.integers(min_value=0), letter=st.sampled_from("ABCxyz019-_."))
def test_a_token_with_one_letter_changed_is_refused(position: int, letter: str) -> None:
    """Nothing in a token can be changed without it being noticed."""
    token = sign_jwt_svid(KEY, key_id="k1", contents=CONTENTS)
    place = position % len(token)
    changed = token[:place] + letter + token[place + 1 :]
    # The last letter of a part may differ in bits that Base64 does not use.
    if changed != token and not only_unused_bits(token, place):
        assert causes(changed)


def only_unused_bits(token: str, place: int) -> bool:
    return place + 1 == len(token) or token[place + 1] == "."


def test_a_bound_token_is_good_on_its_own_connection_only() -> None:
    """RFC 8705: the bearer must hold the key of the certificate that the token names."""
    mine, other = b"my certificate", b"another"
    bound = replace(CONTENTS, certificate_thumbprint=certificate_thumbprint(mine))
    found = verify(sign_jwt_svid(KEY, key_id="k1", contents=bound))
    assert found.certificate_thumbprint == certificate_thumbprint(mine)
    check_binding(found.claims, mine)
    free = verify(sign_jwt_svid(KEY, key_id="k1", contents=CONTENTS))
    for claims, certificate, cause in (
        (found.claims, other, Cause.WRONG_BINDING),
        (found.claims, None, Cause.NO_CLIENT_CERTIFICATE),
        (free.claims, mine, Cause.WRONG_BINDING),
    ):
        with pytest.raises(VerificationError) as refused:
            check_binding(claims, certificate)
        assert [failure.cause for failure in refused.value.failures] == [cause]


def test_a_thumbprint_is_what_rfc_8705_says() -> None:
    """It is the SHA-256 of the DER, in Base64url without padding."""
    # printf abc | openssl dgst -sha256 -binary | basenc --base64url
    assert certificate_thumbprint(b"abc") == "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0"
