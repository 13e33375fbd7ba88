"""What every service of the authority is made of."""

import secrets
from dataclasses import dataclass
from typing import TypedDict

from legation.authority.agents.freshness import Bounds
from legation.authority.agents.propagation import PropagationBoard
from legation.authority.agents.rotation_board import RotationBoard
from legation.authority.agents.traffic import Traffic
from legation.authority.attestation.challenges import Challenges
from legation.authority.event_log import EventLog
from legation.authority.events import EventBus
from legation.authority.feed.hub import FeedHub
from legation.authority.issuing.certifier import Certifier
from legation.authority.issuing.serials import SerialAllocator
from legation.authority.keystore import KeyEncryptionKey
from legation.authority.opened_keys import OpenedKeys, open_keys
from legation.authority.settings import AuthoritySettings
from legation.authority.store import Store
from legation.clock import Clock
from legation.errors import InvalidInput
from legation.pki import SpiffeID


class Shared(TypedDict):
    """What nearly every part takes."""

    settings: AuthoritySettings
    clock: Clock
    events: EventBus


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """What every service is made of."""

    settings: AuthoritySettings
    clock: Clock
    events: EventBus
    store: Store
    secrets: OpenedKeys
    hub: FeedHub
    board: PropagationBoard
    rotations: RotationBoard
    traffic: Traffic
    certifier: Certifier
    challenges: Challenges

    @property
    def shared(self) -> Shared:
        """What nearly every part takes."""
        return Shared(settings=self.settings, clock=self.clock, events=self.events)


async def open_core(
    store: Store, settings: AuthoritySettings, *, clock: Clock, kek: KeyEncryptionKey
) -> Core:
    """Open the keys, fold the feed, and note who has joined.

    Raises:
        NotFound: no authority was initialised in the store.
        InvalidInput: it is another trust domain's, or the key-encryption key is not its.
    """
    events = EventBus()
    events.subscribe(EventLog())
    identity = await store.identity()
    if identity.trust_domain != settings.trust_domain:
        raise InvalidInput(
            f"{settings.data_dir} is the authority of {identity.trust_domain}, "
            f"not of {settings.trust_domain}",
            remedy="correct trust_domain or data_dir",
        )
    opened = await open_keys(store, kek, identity.salt)
    hub = FeedHub(identity.feed_id, store, sign=opened.signer.sign_document)
    await hub.load()
    store.attach(sign=opened.signer.sign, deliver=hub.deliver)
    bounds = Bounds(lambda: hub.state.staleness, settings.crl_validity_s)
    board = PropagationBoard(clock, bounds)
    board.begin(hub.revision)
    hub.listen(board.listen)
    for agent in await store.agents():
        board.enrolled(agent)
    for name, until in (await store.agents_until(at=clock.now())).items():
        board.expect(SpiffeID.parse(name), until=until)
    return Core(
        settings=settings,
        clock=clock,
        events=events,
        store=store,
        secrets=opened,
        hub=hub,
        board=board,
        rotations=RotationBoard(board.agents, events=events),
        traffic=Traffic(since=clock.now().timestamp()),
        certifier=_certifier(opened, store, settings, clock),
        # One process, one key: a nonce that outlives it would only be asked for again.
        challenges=Challenges(secrets.token_bytes(32)),
    )


def _certifier(
    opened: OpenedKeys, store: Store, settings: AuthoritySettings, clock: Clock
) -> Certifier:
    certifier = Certifier(
        settings=settings,
        clock=clock,
        authorities=[issuer.certificate for issuer in opened.issuers.values()],
    )
    if opened.issuing is not None:
        key_id = opened.issuing.key_id_hex
        serials = SerialAllocator(store, key_id, shards=settings.crl_shards)
        certifier.sign_with(opened.issuing, serials)
    return certifier
