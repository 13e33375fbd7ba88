"""A trust domain in memory with a service and a client, and policies between them."""

from typing import Any

import pytest

from legation.testing import InMemorySource, InMemoryTrustDomain

ALLOW = {
    "apiVersion": "legation/v1",
    "kind": "AuthorizationPolicy",
    "metadata": {"name": "web-may-read"},
    "spec": {
        "target": {"spiffeIDs": ["spiffe://example.test/api"]},
        "action": "ALLOW",
        "rules": [
            {
                "from": [{"spiffeIDs": ["spiffe://example.test/web"]}],
                "to": [{"methods": ["GET"], "paths": ["/orders/*"]}],
            }
        ],
    },
}


@pytest.fixture
def domain() -> InMemoryTrustDomain:
    return InMemoryTrustDomain("example.test")


@pytest.fixture
def api(domain: InMemoryTrustDomain) -> InMemorySource:
    return domain.source("/api")


@pytest.fixture
def web(domain: InMemoryTrustDomain) -> InMemorySource:
    return domain.source("/web")


@pytest.fixture
def allow() -> dict[str, Any]:
    return ALLOW


@pytest.fixture(params=["stdlib", "pyopenssl"])
def engine(request: pytest.FixtureRequest) -> str:
    return request.param
