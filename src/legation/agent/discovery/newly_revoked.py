"""What a snapshot revokes that the proxy has not cut yet."""

from legation.agent.discovery.session import Session
from legation.envoy import type_urls
from legation.envoy.revocation import RevokedPeers
from legation.envoy.snapshot import Snapshot
from legation.envoy.spec import Outbound


def peers_revoked(snapshot: Snapshot, *, enforced: Snapshot | None, session: Session) -> bool:
    """Tell whether peers were revoked since connections were cut last.

    Args:
        snapshot: what the proxy holds.
        enforced: for which connections were cut last; None for never.
        session: tells what the proxy held when it came.
    """
    now, before = snapshot.revoked, RevokedPeers()
    if enforced is not None:
        before = enforced.revoked
    elif _brought(session, snapshot, type_urls.EXTENSION):
        return False
    return bool(snapshot.refuses) or now.adds_to(before)


def upstreams_revoked(
    snapshot: Snapshot, *, enforced: Snapshot | None, session: Session
) -> list[Outbound]:
    """Return the upstreams of which something was revoked since; arguments as `peers_revoked`."""
    if enforced is not None:
        before = enforced.upstream_facts
    elif _brought(session, snapshot, type_urls.CLUSTER):
        return []
    else:
        before = {}
    return [
        outbound
        for outbound, facts in snapshot.upstream_facts.items()
        if facts - before.get(outbound, frozenset())
    ]


def _brought(session: Session, snapshot: Snapshot, type_url: str) -> bool:
    """Tell whether the proxy held these resources already when it came.

    It may have lived through a restart of the agent. What was revoked meanwhile shows
    in the digest at the end of the version that it brings.
    """
    digest = session.brought(type_url).rpartition(".")[2]
    return bool(digest) and snapshot.by_type[type_url].digest.startswith(digest)
