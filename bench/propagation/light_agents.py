"""Many agents without workloads in one process, for the bench of propagation.

Each has joined with a token of its own, follows the feed over its own connection with the code
of the real agent, checks every signature, and acknowledges what it has in force. Two things are
missing: the local sockets, and the copy of the feed on disk, which a thousand nodes do not share.

What to do is a JSON line on standard input; a line on standard output says that all are
connected. The process ends when standard input does.
"""

import asyncio
import gc
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import uvloop
from cryptography import x509

from legation.agent.enrolment import EnrolmentRequest, enrol
from legation.agent.evidence import JoinToken
from legation.agent.identity import AUTHORITY_PATH, AgentIdentity, Membership
from legation.agent.model import PointBoard
from legation.agent.upstream.client import AuthorityClient, Credentials
from legation.agent.upstream.feed import FeedReceiver
from legation.agent.upstream.feed_cache import FeedCache
from legation.agent.upstream.sync import FeedSync
from legation.clock import SystemClock
from legation.config.values import Address
from legation.pki import Purpose, SpiffeID, certificates_from_pem, verify_svid
from legation.wire.feed import FeedEvent
from legation.wire.protobuf import agent_pb2

JOINING = 8  # at the same time
_FREEZE_S = 0.5


class LightAgent:
    """One agent: its identity, and its connections to the authority."""

    def __init__(self, identity: AgentIdentity, membership: Membership) -> None:
        self.identity = identity
        self._membership = membership
        self.client = AuthorityClient(
            api=Address(membership.authority, membership.api_port),
            credentials=Credentials(
                identity=identity, authorities=membership.bundle.x509_authorities
            ),
            verify=self._verify,
        )

    @classmethod
    async def join(cls, authority: str, roots_pem: str, token: str) -> "LightAgent":
        """Enrol with a join token."""
        request = EnrolmentRequest(
            authority=authority,
            evidence=JoinToken(token),
            authorities=certificates_from_pem(roots_pem),
        )
        return cls(*await enrol(request, clock=SystemClock()))

    def follow(self, connected: Callable[[], None]) -> FeedSync:
        """Return what follows the feed; `connected` is called when it does."""
        agent = self.identity.spiffe_id
        return FeedSync(
            connector=self.client,
            receiver=FeedReceiver(agent, lambda: self._membership.feed_keys),
            cache=_NoCache(Path("/dev/null")),
            board=PointBoard(),
            agent_id=str(agent),
            clock=SystemClock(),
            changed=lambda _: None,
            reconnected=connected,
        )

    def _verify(self, chain: tuple[x509.Certificate, ...]) -> None:
        verify_svid(
            chain,
            bundle=self._membership.bundle,
            at=SystemClock().now(),
            purpose=Purpose.SERVER,
            expected=SpiffeID(self._membership.trust_domain, AUTHORITY_PATH),
        )


class _NoCache(FeedCache):
    """Keeps nothing."""

    @property
    def overgrown(self) -> bool:
        return False

    def load(self) -> Iterator[agent_pb2.Events]:
        return iter(())

    def append(self, part: agent_pb2.Events) -> None:
        del part

    def replace(self, parts: Iterable[agent_pb2.Events]) -> None:
        del parts

    async def compact(self, *, current: Callable[[FeedEvent], bool]) -> None:
        del current


async def run(task: dict[str, Any]) -> None:
    """Join with every token and follow the feed."""
    room = asyncio.Semaphore(JOINING)
    following: list[asyncio.Task[None]] = []

    async def begin(token: str) -> None:
        async with room:
            agent = await LightAgent.join(task["authority"], task["roots"], token)
            connected = asyncio.Event()
            following.append(asyncio.create_task(agent.follow(connected.set).run()))
            await connected.wait()

    await asyncio.gather(*(begin(token) for token in task["tokens"]))
    gc.collect()
    following.append(asyncio.create_task(_freeze()))
    print("connected", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for each in following:
        each.cancel()
    await asyncio.gather(*following, return_exceptions=True)


async def _freeze() -> None:
    """Keep the collector off what lasts, as an agent does when it is ready.

    It does so once. Here, what each of five hundred has taken in since would be walked through
    in one go, and all of them stand still for 60 ms that no agent ever does.
    """
    while True:
        gc.freeze()
        await asyncio.sleep(_FREEZE_S)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(json.loads(sys.stdin.readline())))
