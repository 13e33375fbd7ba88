"""JWT-SVIDs: what any caller may show."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

from legation.errors import VerificationError
from legation.pki import SpiffeID, TrustBundle, TrustDomain, generate_key
from legation.pki.jwt_svid import JWTSVIDContents, sign_jwt_svid, verify_jwt_svid

AT = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
HOME = TrustDomain("example.org")
KEY = generate_key()
BUNDLES = {HOME: TrustBundle(HOME, jwt_authorities={"k1": KEY.public_key()})}
GENUINE = sign_jwt_svid(
    KEY,
    key_id="k1",
    contents=JWTSVIDContents(
        spiffe_id=SpiffeID(HOME, "/web"),
        audience=("api",),
        issued_at=AT,
        expires_at=AT + timedelta(minutes=5),
        token_id="1",
    ),
)
SIGNED = GENUINE.rpartition(".")[0]
SEEDS = (GENUINE.encode(), f"{SIGNED}.".encode(), b"e30.e30.", b"..")


def one_input(data: bytes) -> None:
    """Verify `data`; only VerificationError may be raised, and nothing forged is accepted."""
    token = data.decode("utf-8", "replace")
    with suppress(VerificationError):
        verify_jwt_svid(token, bundles=BUNDLES, audience="api", at=AT)
        # Base64 leaves bits of the last letter unused, so the signature may differ in them.
        if token.rpartition(".")[0] != SIGNED:
            raise AssertionError("a token that we have not signed was accepted")
