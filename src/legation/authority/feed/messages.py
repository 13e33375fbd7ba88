"""Messages of the Sync stream as bytes.

An event goes to every agent, so it is encoded once: as the wire form of one element of
`Events.events`. A message is a header followed by such elements, which is what
serialising the whole would give (protobuf encoding: fields of a message may be
concatenated). A test parses the result with the generated code.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

from legation.authority.store import CommittedEvent
from legation.wire.feed import RevocationPage
from legation.wire.feed.delegation import covers, is_pattern
from legation.wire.feed.parts import delimited, event_element, part_document
from legation.wire.protobuf import agent_pb2
from legation.wire.protobuf.agent_pb2 import Events, Heartbeat, SyncResponse

_RESPONSE_EVENTS = bytes([1 << 3 | 2])  # SyncResponse.events, length-delimited
_EVENTS_PAGE = bytes([6 << 3 | 2])  # Events.pages, length-delimited
_PART_BYTES = 512 << 10  # of one message; a single larger event has one to itself


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedEvent:
    """One event, or a page of revocations, ready for any message.

    Attributes:
        revision: of the event; of the newest one when the page was made.
        audience: the agents that may see it, names and patterns; None for all.
        patterns: those of them that are patterns.
        element: its wire form as an element of `Events.events` or `Events.pages`.
        is_page: which of the two.
    """

    revision: int
    audience: frozenset[str] | None
    patterns: tuple[str, ...] = ()
    element: bytes = field(repr=False)
    is_page: bool = False

    @classmethod
    def encode(cls, committed: CommittedEvent) -> Self:
        """Encode a committed event."""
        signed = committed.signed
        audience = committed.event.audience
        return cls(
            revision=committed.event.revision,
            audience=None if audience is None else frozenset(audience),
            patterns=tuple(filter(is_pattern, audience or ())),
            element=event_element(signed.body, signed.signature),
        )

    @classmethod
    def of_page(cls, page: RevocationPage, *, revision: int) -> Self:
        """Encode a page."""
        return cls(revision=revision, audience=None, element=page_element(page), is_page=True)

    def visible_to(self, agent: str) -> bool:
        """Tell whether `agent` may see it."""
        return (
            self.audience is None
            or agent in self.audience
            or any(covers(pattern, agent) for pattern in self.patterns)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a message says besides its events."""

    feed_id: str
    revision: int
    snapshot: bool = False
    complete: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one message has besides its header.

    Attributes:
        content: elements, one after the other.
        signature: of the events as a whole; empty if each has to be checked by itself.
    """

    content: bytes = b""
    signature: bytes = b""


def parts_of(encoded: Iterable[EncodedEvent], sign: Callable[[bytes], bytes]) -> Iterator[Part]:
    """Join events and pages into parts of bounded size; `sign` signs with the feed key."""
    group: list[EncodedEvent] = []
    size = 0
    for each in encoded:
        if group and size + len(each.element) > _PART_BYTES:
            yield _part(group, sign)
            group, size = [], 0
        group.append(each)
        size += len(each.element)
    if group:
        yield _part(group, sign)


def _part(group: Sequence[EncodedEvent], sign: Callable[[bytes], bytes]) -> Part:
    elements = [each.element for each in group]
    # The signature of one event says as much, and a page has one of its own.
    alone = len(group) == 1 or any(each.is_page for each in group)
    signature = b"" if alone else sign(part_document(elements))
    return Part(content=b"".join(elements), signature=signature)


def events_message(header: Header, part: Part) -> bytes:
    """Return a SyncResponse with events."""
    head = Events(
        feed_id=header.feed_id,
        snapshot=header.snapshot,
        complete=header.complete,
        revision=header.revision,
        signature=part.signature,
    ).SerializeToString()
    return delimited(_RESPONSE_EVENTS, head + part.content)


def page_element(page: RevocationPage) -> bytes:
    """Return the wire form of a signed page, as an element of `Events.pages`."""
    body = agent_pb2.RevocationPage(
        document=page.document, signature=page.signature
    ).SerializeToString()
    return delimited(_EVENTS_PAGE, body)


def heartbeat_message(*, now_ms: int, revision: int, acknowledged: int = 0) -> bytes:
    """Return a SyncResponse with a heartbeat."""
    heartbeat = Heartbeat(now_ms=now_ms, revision=revision, acknowledged=acknowledged)
    return SyncResponse(heartbeat=heartbeat).SerializeToString()
