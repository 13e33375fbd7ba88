"""Authorization policies, kept in the feed."""

from legation.authority.administration.documents import Documents
from legation.authority.feed.hub import FeedHub
from legation.authority.store import FeedStore
from legation.clock import Clock
from legation.policy import AuthorizationPolicy
from legation.wire.feed import Kind


class Policies(Documents[AuthorizationPolicy]):
    """Implements `legation.authority.services.DocumentService`."""

    def __init__(self, hub: FeedHub, store: FeedStore, *, clock: Clock) -> None:
        super().__init__(
            hub,
            store,
            clock=clock,
            kind=Kind.POLICY,
            what="policy",
            held=lambda state: state.policies,
            read=AuthorizationPolicy.from_document,
        )
