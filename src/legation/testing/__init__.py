"""A trust domain in memory, for the tests of services that use `legation.sdk`.

::

    from legation.sdk.authorize import authorize_id
    from legation.sdk.tls import server_context
    from legation.testing import InMemoryTrustDomain

    domain = InMemoryTrustDomain("example.test")
    api = domain.source("/api")
    context = server_context(api, authorize=authorize_id("spiffe://example.test/web"))

Certificates are real and so is everything that judges them. Only the network, the agent
and the passing of time are left out: `revoke`, `ban`, `apply` and `clock.advance` take
effect before they return, open connections included.
"""

from legation.clock import FixedClock
from legation.testing.domain import InMemoryTrustDomain
from legation.testing.identity import Identity, IdentityFiles
from legation.testing.source import InMemorySource

__all__ = ["FixedClock", "Identity", "IdentityFiles", "InMemorySource", "InMemoryTrustDomain"]
