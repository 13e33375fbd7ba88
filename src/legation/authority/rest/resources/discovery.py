"""OpenID Connect discovery, so that clouds and other verifiers can check JWT-SVIDs."""

from legation.authority.jwt.discovery import DISCOVERY_PATH, JWKS_PATH
from legation.authority.rest.calls import Call, Reply, Route
from legation.authority.rest.fields import Document
from legation.errors import NotFound


async def get_discovery(call: Call) -> Reply:
    """Return the discovery document."""
    return Reply(value=Document(dict(call.services.status.discovery_document())))


async def get_jwks(call: Call) -> Reply:
    """Return the keys."""
    return Reply(value=Document(dict(call.services.status.jwks())))


ROUTES = (
    Route(
        method="GET",
        path=DISCOVERY_PATH,
        operation="getDiscovery",
        summary="Fetch the OpenID Connect discovery document of JWT-SVIDs.",
        role=None,
        handler=get_discovery,
        returns=Document,
        errors=(NotFound,),
    ),
    Route(
        method="GET",
        path=JWKS_PATH,
        operation="getJWKS",
        summary="Fetch the keys that sign JWT-SVIDs.",
        role=None,
        handler=get_jwks,
        returns=Document,
    ),
)
