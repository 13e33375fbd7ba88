"""Inputs for snapshots, without any agent."""

from collections.abc import Callable

import pytest

from legation.envoy import Inbound, Outbound, Protocol, ProxyInputs, ProxySpec
from legation.pki import SpiffeID, private_key_to_pem
from legation.wire.feed import FeedState
from tests.support.envoy import API, Authorities, Feed

DATABASE = "spiffe://example.org/db"


@pytest.fixture(scope="session")
def authorities() -> Authorities:
    """The trust domain's authorities."""
    return Authorities()


@pytest.fixture
def feed(authorities: Authorities) -> Feed:
    """A feed that knows the bundle and the revocation list."""
    return Feed(authorities)


@pytest.fixture
def spec() -> ProxySpec:
    """A proxy with every kind of port."""
    return ProxySpec(
        name="api",
        inbound=(
            Inbound(listen="127.0.0.1:8443", app="127.0.0.1:8080"),
            Inbound(listen="127.0.0.1:8444", app="localhost:8081", protocol=Protocol.HTTP2),
            Inbound(listen="[::1]:8445", app="127.0.0.1:5432", protocol=Protocol.TCP),
        ),
        outbound=(
            Outbound(listen="127.0.0.1:9001", upstream="10.0.0.1:8443", spiffe_id=DATABASE),
            Outbound(
                listen="127.0.0.1:9002",
                upstream="db.example.org:8443",
                spiffe_id=DATABASE,
                protocol=Protocol.TCP,
            ),
        ),
        spiffe_id=API,
    )


@pytest.fixture
def inputs(authorities: Authorities, feed: Feed, spec: ProxySpec) -> Callable[..., ProxyInputs]:
    """Make inputs; keyword arguments replace single ones."""
    leaf = authorities.leaf(API)

    def make(state: FeedState | None = None, **changes: object) -> ProxyInputs:
        fields: dict[str, object] = {
            "spec": spec,
            "spiffe_id": SpiffeID.parse(API),
            "chain_pem": "CHAIN",
            "private_key_pem": private_key_to_pem(leaf.key).decode(),
            "issuer": authorities.issuer_id,
            "state": feed.state if state is None else state,
        }
        return ProxyInputs(**(fields | changes))  # type: ignore[arg-type]

    return make
