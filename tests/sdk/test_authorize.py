"""Who is let in, and who may make a request."""

import pytest

from legation.causes import Cause
from legation.errors import InvalidInput, NotPermitted, Unavailable
from legation.pki import SpiffeID, TrustDomain
from legation.policy import AuthorizationPolicy
from legation.sdk.authorize import (
    PeerNotAuthorized,
    authorize_any,
    authorize_id,
    authorize_member_of,
    authorize_policy,
)
from legation.sdk.model import Peer
from tests.support.sdk_source import Authority, MemorySource, now


def peer(name: str) -> Peer:
    return Peer(spiffe_id=SpiffeID.parse(name), serial=7, not_after=now(), certificate=b"")


WEB, OTHER = peer("spiffe://example.org/web"), peer("spiffe://other.test/web")


def test_any_lets_everybody_in() -> None:
    """Whoever is verified is let in, of any trust domain."""
    for one in (WEB, OTHER):
        authorize_any()(one)


def test_ids_let_in_exactly_those_named() -> None:
    """Named identities are let in, whether given as text or parsed; a prefix is no match."""
    authorize = authorize_id("spiffe://example.org/api", WEB.spiffe_id)
    authorize(WEB)
    with pytest.raises(PeerNotAuthorized, match=r"expected spiffe://example\.org/api") as caught:
        authorize(peer("spiffe://example.org/web/admin"))
    assert caught.value.cause is Cause.WRONG_IDENTITY
    assert isinstance(caught.value, NotPermitted)


def test_members_let_in_exactly_their_trust_domains() -> None:
    """Members of named trust domains are let in; others are refused as of the wrong one."""
    authorize = authorize_member_of("spiffe://example.org", TrustDomain("third.test"))
    authorize(WEB)
    with pytest.raises(PeerNotAuthorized) as caught:
        authorize(OTHER)
    assert caught.value.cause is Cause.WRONG_TRUST_DOMAIN


@pytest.mark.parametrize("make", [authorize_id, authorize_member_of])
def test_an_empty_list_is_a_mistake(make: object) -> None:
    """An authorizer that could let nobody in is refused when it is made."""
    with pytest.raises(InvalidInput, match="nobody could be let in"):
        make()  # type: ignore[operator]


def test_a_malformed_name_is_a_mistake() -> None:
    """A text that is no SPIFFE ID is refused when the authorizer is made."""
    with pytest.raises(InvalidInput, match="is not a SPIFFE ID"):
        authorize_id("example.org/api")


def policy(**operation: object) -> AuthorizationPolicy:
    rule: dict[str, object] = {"from": [{"spiffeIDs": ["spiffe://example.org/web"]}]}
    if operation:
        rule["to"] = [operation]
    return AuthorizationPolicy.from_document(
        {
            "apiVersion": "legation/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": "web-reads"},
            "spec": {
                "target": {"spiffeIDs": ["spiffe://example.org/api"]},
                "action": "ALLOW",
                "rules": [rule],
            },
        }
    )


@pytest.fixture
def source() -> MemorySource:
    authority = Authority()
    return MemorySource(authority.issue("/api"), authority.bundle())


def test_a_policy_decides_on_each_request(source: MemorySource) -> None:
    """The connection is let in; a request that a policy allows passes, the next may not."""
    source.set_policies(policy(methods=["GET"], paths=["/orders"]))
    authorize = authorize_policy(source, port=8443)
    authorize(WEB)
    assert authorize.check(WEB, method="GET", path="/orders").decided_by == "web-reads"
    with pytest.raises(PeerNotAuthorized, match="denied by default-deny") as caught:
        authorize.check(WEB, method="POST", path="/orders")
    assert caught.value.cause is Cause.POLICY_DENIED
    assert not authorize.decide(OTHER, method="GET", path="/orders").allowed


def test_without_policies_every_request_is_denied(source: MemorySource) -> None:
    """Where the source has no policies, nothing is allowed."""
    with pytest.raises(PeerNotAuthorized):
        authorize_policy(source).check(WEB, method="GET", path="/")


def test_a_plain_connection_is_decided_on_as_a_whole(source: MemorySource) -> None:
    """Without requests to judge, who is not allowed to connect is not let in."""
    source.set_policies(policy())
    authorize = authorize_policy(source, tcp=True, port=5432)
    authorize(WEB)
    with pytest.raises(PeerNotAuthorized):
        authorize(OTHER)


def test_policies_are_followed_live(source: MemorySource) -> None:
    """What a policy no longer allows is denied from the next request on."""
    source.set_policies(policy())
    authorize = authorize_policy(source)
    authorize.check(WEB, method="GET", path="/")
    source.set_policies()
    with pytest.raises(PeerNotAuthorized):
        authorize.check(WEB, method="GET", path="/")


def test_without_an_identity_nobody_knows_what_is_called(source: MemorySource) -> None:
    """A source without a view makes decisions fail instead of guessing the target."""
    source.error = Unavailable("no identity yet")
    with pytest.raises(Unavailable):
        authorize_policy(source).check(WEB, method="GET", path="/")
    target = SpiffeID.parse("spiffe://example.org/api")
    named = authorize_policy(source, target=target)
    assert not named.decide(WEB, method="GET", path="/").allowed
