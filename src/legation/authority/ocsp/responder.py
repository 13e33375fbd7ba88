"""The responder as a whole: its parts, put together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from legation.authority.agents.http import Call
from legation.authority.events import EventBus
from legation.authority.feed.hub import FeedHub
from legation.authority.ocsp.calls import staple_calls
from legation.authority.ocsp.responders import DelegatedResponders
from legation.authority.ocsp.service import OCSPService
from legation.authority.ocsp.staples import StapleService
from legation.authority.settings import AuthoritySettings
from legation.authority.store import InventoryStore, IssuanceStore
from legation.clock import Clock
from legation.pki import Issuer


class ResponderStore(InventoryStore, IssuanceStore, Protocol):
    """The parts of the store that a responder needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OCSPResponder:
    """A responder that follows the feed.

    Attributes:
        service: answers questions; its `run` has to run.
        calls: what agents may ask of it, by path.
    """

    service: OCSPService
    calls: Mapping[str, Call]


def build_responder(
    store: ResponderStore,
    hub: FeedHub,
    issuers: Mapping[str, Issuer],
    *,
    settings: AuthoritySettings,
    clock: Clock,
    events: EventBus,
    actor: str,
) -> OCSPResponder:
    """Put a responder together that speaks for `issuers`, by key id in hexadecimal."""
    responders = DelegatedResponders(
        store, issuers, settings=settings, clock=clock, events=events, actor=actor
    )
    service = OCSPService(store, hub.state, responders, settings=settings, clock=clock)
    hub.listen(service.listen)
    staples = StapleService(service, responders, store, settings=settings)
    return OCSPResponder(service=service, calls=staple_calls(staples))
