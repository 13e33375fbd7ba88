"""The registry of open connections: whom a change of the source cuts, and whom it spares."""

import gc
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from legation.causes import Cause
from legation.errors import NotPermitted
from legation.pki import Purpose, TrustDomain
from legation.sdk.authorize import authorize_any
from legation.sdk.connections import (
    CAPABILITY,
    ENFORCER,
    ConnectionCut,
    Connections,
    connections_of,
)
from legation.sdk.model import Aspect, Peer
from legation.sdk.peers import PeerVerifier, Verified
from tests.support.sdk_source import Authority, MemorySource


class Connection:
    """Stands for a connection."""

    cause: Cause | None = None

    @staticmethod
    def cut(connections: Sequence["Connection"], cause: Cause) -> None:
        for connection in connections:
            connection.cause = cause


class Setting:
    """A source, its registry, and a verifier whose authorizer can be turned round."""

    def __init__(self) -> None:
        self.authority = Authority()
        self.other = Authority(TrustDomain("other.test"))
        self.source = MemorySource(
            self.authority.issue("/api"), self.authority.bundle(), self.other.bundle()
        )
        self.forbidden: set[str] = set()
        self.verifier = PeerVerifier(self.source, authorize=self._authorize, purpose=Purpose.CLIENT)
        self.registry = connections_of(self.source)

    def _authorize(self, peer: Peer) -> None:
        if str(peer.spiffe_id) in self.forbidden:
            raise NotPermitted("no longer")

    def verified(self, path: str, authority: Authority | None = None) -> Verified:
        leaf, *rest = (
            one.public_bytes(Encoding.DER)
            for one in (authority or self.authority).issue(path).chain
        )
        return self.verifier.verify(leaf, lambda: rest)

    def open(self, verified: Verified) -> Connection:
        connection = Connection()
        self.registry.register(
            connection, verified=verified, verifier=self.verifier, cut=Connection.cut
        )
        return connection


@pytest.fixture
def setting() -> Setting:
    return Setting()


def test_a_revocation_cuts_exactly_the_connections_of_that_certificate(setting: Setting) -> None:
    """All connections of the revoked serial end; those of the same identity's next one stay."""
    old, new = setting.verified("/web"), setting.verified("/web")
    cut, kept = [setting.open(old), setting.open(old)], setting.open(new)
    setting.source.revoke(old.peer.serial)
    assert [one.cause for one in cut] == [Cause.CERTIFICATE_REVOKED] * 2
    assert kept.cause is None
    assert len(setting.registry) == 1


def test_a_ban_cuts_every_connection_of_the_identity(setting: Setting) -> None:
    """Whatever certificate it was opened with, a banned identity's connection ends."""
    banned = [setting.open(setting.verified("/web")), setting.open(setting.verified("/web"))]
    kept = setting.open(setting.verified("/batch"))
    setting.source.ban(setting.verified("/web").peer.spiffe_id)
    assert [one.cause for one in banned] == [Cause.IDENTITY_BANNED] * 2
    assert kept.cause is None


def test_stale_revocation_data_cuts_where_the_source_refuses_for_it(setting: Setting) -> None:
    """When the policy is to refuse, open connections end as new ones are refused."""
    connection = setting.open(setting.verified("/web"))
    setting.source.grow_stale()
    assert connection.cause is Cause.REVOCATION_DATA_STALE


def test_a_change_of_policies_asks_the_authorizer_again(setting: Setting) -> None:
    """Who may not connect any more is cut; a change that allows as before cuts nobody."""
    connection, kept = (setting.open(setting.verified(path)) for path in ("/web", "/batch"))
    setting.source.set_policies()
    assert connection.cause is None
    setting.forbidden.add("spiffe://example.org/web")
    setting.source.set_policies()
    assert (connection.cause, kept.cause) == (Cause.POLICY_DENIED, None)


def test_a_trust_domain_that_is_gone_takes_its_connections_along(setting: Setting) -> None:
    """When federation ends, peers of that trust domain are cut and the others are not."""
    foreign = setting.open(setting.verified("/web", setting.other))
    own = setting.open(setting.verified("/web"))
    setting.source.trust(setting.authority.bundle())
    assert (foreign.cause, own.cause) == (Cause.WRONG_TRUST_DOMAIN, None)


def test_a_new_identity_of_our_own_cuts_nobody(setting: Setting) -> None:
    """Rotation happens under open connections."""
    connection = setting.open(setting.verified("/web"))
    setting.source.rotate(setting.authority.issue("/api"))
    assert connection.cause is None


def test_the_source_hears_of_each_revision_after_it_is_in_force(setting: Setting) -> None:
    """A revision is acknowledged once, by the attached name, when its connections are cut."""
    assert setting.source.attached == {ENFORCER: (CAPABILITY,)}
    verified = setting.verified("/web")
    connection = setting.open(verified)
    seen: list[Any] = []
    setting.source.applied = lambda *given: seen.append((given, connection.cause))  # type: ignore[method-assign,assignment]
    setting.source.revoke(verified.peer.serial)
    assert seen == [((ENFORCER, 1), Cause.CERTIFICATE_REVOKED)]


def test_a_revision_that_could_not_be_enforced_is_not_acknowledged(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    """If cutting fails, the agent is not told that it happened."""
    verified = setting.verified("/web")

    def cut(connections: Sequence[object], cause: Cause) -> None:
        raise RuntimeError("cannot")

    connection = Connection()
    setting.registry.register(connection, verified=verified, verifier=setting.verifier, cut=cut)
    setting.source.revoke(verified.peer.serial)
    assert setting.source.acknowledged == []
    assert "could not be gone through" in caplog.text
    setting.source.change(Aspect.IDENTITY)
    assert setting.source.acknowledged == [(ENFORCER, 2, ())]


def test_what_is_cut_is_reported_once(setting: Setting) -> None:
    """The source hears of the cut peer once, however often it changes afterwards."""
    verified = setting.verified("/web")
    connections = [setting.open(verified) for _ in range(3)]
    setting.source.revoke(verified.peer.serial)
    setting.source.change(Aspect.REVOCATIONS)
    assert setting.source.causes == [Cause.CERTIFICATE_REVOKED]
    assert len(connections) == 3


def test_a_connection_that_is_gone_leaves_by_itself(setting: Setting) -> None:
    """The registry keeps nothing alive, and forgets what died or was taken out."""
    verified = setting.verified("/web")
    kept, dropped, ended = (setting.open(verified) for _ in range(3))
    del dropped
    gc.collect()
    assert len(setting.registry) == 2
    setting.registry.discard(ended, verified=verified, verifier=setting.verifier)
    setting.registry.discard(ended, verified=verified, verifier=setting.verifier)
    assert len(setting.registry) == 1
    setting.source.revoke(verified.peer.serial)
    assert (kept.cause, ended.cause) == (Cause.CERTIFICATE_REVOKED, None)


def test_there_is_one_registry_for_each_source_and_it_ends_with_it(setting: Setting) -> None:
    """Contexts of one source share a registry; the source is not kept alive by it."""
    assert connections_of(setting.source) is setting.registry
    source = MemorySource(None, setting.authority.bundle())
    registry = connections_of(source)
    assert registry is not setting.registry
    del source
    gc.collect()
    registry._changed(frozenset({Aspect.REVOCATIONS}))  # nobody to act for


def test_connections_come_and_go_while_the_source_changes(setting: Setting) -> None:
    """Threads that open and drop connections do not disturb one that revokes."""
    peers = [setting.verified(f"/web/{number}") for number in range(8)]
    stop, failures = threading.Event(), []

    def churn(verified: Verified) -> None:
        try:
            while not stop.is_set():
                setting.open(verified)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=churn, args=(verified,)) for verified in peers[1:]]
    for thread in threads:
        thread.start()
    connection = setting.open(peers[0])
    for _ in range(50):
        setting.source.change(Aspect.REVOCATIONS)
    setting.source.revoke(peers[0].peer.serial)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert connection.cause is Cause.CERTIFICATE_REVOKED
    assert len(setting.registry) == 0


def test_the_error_of_a_cut_says_why() -> None:
    """What reads and writes raise is an error of the operating system's kind, with the cause."""
    error = ConnectionCut(Cause.IDENTITY_BANNED)
    assert isinstance(error, OSError)
    assert (error.cause, error.reason) == (Cause.IDENTITY_BANNED, "IDENTITY_BANNED")
    assert "identity_banned" in str(error)


def test_a_registry_of_its_own_works_alone(setting: Setting) -> None:
    """A registry made directly acts on the same changes."""
    registry = Connections(setting.source)
    verified, connection = setting.verified("/web"), Connection()
    registry.register(
        connection,
        verified=verified,
        verifier=PeerVerifier(setting.source, authorize=authorize_any(), purpose=Purpose.CLIENT),
        cut=Connection.cut,
    )
    setting.source.revoke(verified.peer.serial)
    assert connection.cause is Cause.CERTIFICATE_REVOKED
