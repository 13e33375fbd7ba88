"""The state-of-the-world protocol, step by step."""

from dataclasses import replace
from types import MappingProxyType

import pytest

from legation.agent.discovery.session import Request, Session
from legation.envoy import type_urls
from legation.envoy.revocation import RevokedPeers
from legation.envoy.snapshot import Snapshot, TypedResources
from legation.errors import InvalidInput, LimitExceeded

CLUSTER, SECRET = type_urls.CLUSTER, type_urls.SECRET


def _snapshot(revision: int, **versions: str) -> Snapshot:
    """Build a snapshot in which a type named in `versions` has the secrets or clusters a and b."""
    kinds = {"cluster": CLUSTER, "secret": SECRET}
    return Snapshot(
        revision=revision,
        by_type=MappingProxyType(
            {
                kinds[kind]: TypedResources(
                    version=version, digest=version, resources={"a": {}, "b": {}} if version else {}
                )
                for kind, version in versions.items()
            }
        ),
        revoked=RevokedPeers(),
        upstream_facts={},
        lists_in_force=True,
    )


FIRST = _snapshot(1, secret="1.s", cluster="1.c")


@pytest.fixture
def session() -> Session:
    return Session((SECRET, CLUSTER))


def _subscribe(session: Session, *names: str) -> None:
    session.receive(Request(type_url=CLUSTER))
    session.receive(Request(type_url=SECRET, names=frozenset(names)))


def test_offers_what_was_asked_for_in_order(session: Session) -> None:
    """Secrets go before clusters, each with the names that were asked for, and only once."""
    _subscribe(session, "a")
    pushes = session.offer(FIRST)
    assert [(push.type_url, push.names) for push in pushes] == [
        (SECRET, ("a",)),
        (CLUSTER, ("a", "b")),
    ]
    assert len({push.nonce for push in pushes}) == 2
    assert session.offer(FIRST) == []


def test_holds_only_what_is_acknowledged(session: Session) -> None:
    """A snapshot is in force when every type of it is acknowledged."""
    _subscribe(session, "a", "b")
    secret, cluster = session.offer(FIRST)
    assert not session.holds(FIRST)
    assert session.receive(Request(type_url=CLUSTER, nonce=cluster.nonce))
    assert not session.holds(FIRST)
    ack = Request(type_url=SECRET, nonce=secret.nonce, names=frozenset("ab"))
    assert session.receive(ack)
    assert session.holds(FIRST)


def test_unchanged_types_are_in_force_at_the_next_revision(session: Session) -> None:
    """What did not change needs no new acknowledgement."""
    _subscribe(session, "a")
    secret, cluster = session.offer(FIRST)
    session.receive(Request(type_url=CLUSTER, nonce=cluster.nonce))
    session.receive(Request(type_url=SECRET, nonce=secret.nonce, names=frozenset("a")))
    second = _snapshot(2, secret="2.s", cluster="1.c")
    (push,) = session.offer(second)
    assert (push.type_url, push.version) == (SECRET, "2.s")
    assert not session.holds(second)
    session.receive(Request(type_url=SECRET, nonce=push.nonce, names=frozenset("a")))
    assert session.holds(second)


def test_refused_change_is_not_in_force(session: Session) -> None:
    """A refusal is remembered with its words, and cleared by the next acknowledgement."""
    _subscribe(session, "a")
    secret, cluster = session.offer(FIRST)
    session.receive(Request(type_url=CLUSTER, nonce=cluster.nonce))
    names = frozenset("a")
    session.receive(Request(type_url=SECRET, nonce=secret.nonce, names=names, error="no"))
    assert session.errors == {SECRET: "no"}
    assert not session.holds(FIRST)
    assert session.offer(FIRST) == []
    second = _snapshot(2, secret="2.s", cluster="1.c")
    (push,) = session.offer(second)
    session.receive(Request(type_url=SECRET, nonce=push.nonce, names=names))
    assert session.errors == {}
    assert session.holds(second)


def test_stale_nonce_says_nothing(session: Session) -> None:
    """A request that was sent before our last response acknowledges nothing."""
    _subscribe(session, "a")
    old, _ = session.offer(FIRST)
    second = _snapshot(2, secret="2.s", cluster="1.c")
    session.offer(second)
    assert not session.receive(Request(type_url=SECRET, nonce=old.nonce, names=frozenset("a")))
    assert not session.holds(second)


def test_new_names_are_answered(session: Session) -> None:
    """A name that is added is sent at the same version; one that is dropped is not."""
    _subscribe(session, "a")
    secret, cluster = session.offer(FIRST)
    session.receive(Request(type_url=CLUSTER, nonce=cluster.nonce))
    session.receive(Request(type_url=SECRET, nonce=secret.nonce, names=frozenset("ab")))
    (push,) = session.offer(FIRST)
    assert push.names == ("a", "b")
    assert not session.holds(FIRST)
    session.receive(Request(type_url=SECRET, nonce=push.nonce, names=frozenset("b")))
    assert session.holds(FIRST)
    assert session.offer(FIRST) == []


def test_type_that_was_not_asked_for_is_not_in_force(session: Session) -> None:
    """A proxy that has not asked for its secrets yet does not have them."""
    session.receive(Request(type_url=CLUSTER))
    (cluster,) = session.offer(FIRST)
    session.receive(Request(type_url=CLUSTER, nonce=cluster.nonce))
    assert not session.holds(FIRST)
    assert session.holds(replace(FIRST, by_type=_snapshot(1, secret="", cluster="1.c").by_type))


def test_no_clusters_are_an_answer_and_no_secrets_are_none(session: Session) -> None:
    """Envoy waits for clusters even if there are none; a secret that is not there may come."""
    _subscribe(session, "a")
    pushes = session.offer(
        replace(
            FIRST,
            by_type={
                SECRET: TypedResources(version="1.x", digest="x", resources={}),
                CLUSTER: TypedResources(version="1.y", digest="y", resources={}),
            },
        )
    )
    assert [push.type_url for push in pushes] == [CLUSTER]


def test_version_from_an_earlier_agent(session: Session) -> None:
    """The version that a client brings is kept, and acknowledges nothing."""
    session.receive(Request(type_url=CLUSTER, version="7.abc"))
    assert session.brought(CLUSTER) == "7.abc"
    assert session.brought(SECRET) == ""
    assert not session.holds(FIRST)


def test_foreign_types_and_too_many_names() -> None:
    """Types that are not served, and lists without end, are refused in words."""
    with pytest.raises(InvalidInput, match="are not served"):
        Session((SECRET,)).receive(Request(type_url=CLUSTER))
    with pytest.raises(LimitExceeded, match="1024"):
        Request(type_url=SECRET, names=frozenset(map(str, range(1025))))
    with pytest.raises(LimitExceeded, match="2048"):
        Request(type_url=SECRET, names=frozenset({"x" * 2049}))
