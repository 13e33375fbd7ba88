"""What others need to check JWT-SVIDs: keys, and the OpenID Connect discovery document.

https://openid.net/specs/openid-connect-discovery-1_0.html, as far as a verifier of tokens
reads it. There is nothing to log in to: the endpoints of a login are not named.
"""

from typing import Any

from legation.pki import TrustBundle, algorithm_of
from legation.pki.jwk import JWS_ALGORITHMS, to_jwk

DISCOVERY_PATH = "/.well-known/openid-configuration"
JWKS_PATH = "/.well-known/jwks.json"


def jwks(bundle: TrustBundle) -> dict[str, Any]:
    """Return the keys that sign JWT-SVIDs, as a JWK set (RFC 7517, section 5)."""
    return {
        "keys": [
            {
                **to_jwk(key),
                "kid": key_id,
                "use": "sig",
                "alg": JWS_ALGORITHMS[algorithm_of(key)],
            }
            for key_id, key in bundle.jwt_authorities.items()
            if algorithm_of(key) in JWS_ALGORITHMS
        ]
    }


def discovery_document(issuer: str, bundle: TrustBundle) -> dict[str, Any]:
    """Return the discovery document of an issuer, an https URL without a slash at its end."""
    algorithms = {key["alg"] for key in jwks(bundle)["keys"]}
    return {
        "issuer": issuer,
        "jwks_uri": f"{issuer}{JWKS_PATH}",
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": sorted(algorithms),
        "claims_supported": ["iss", "sub", "aud", "exp", "iat", "jti", "cnf"],
    }
