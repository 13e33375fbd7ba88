"""Messages of the Sync stream as bytes.

An event goes to every agent, so it is encoded once: as the wire form of one element of
`Events.events`. A message is a header followed by such elements, which is what
serialising the whole would give (protobuf encoding: fields of a message may be
concatenated). A test parses the result with the generated code.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from legation.authority.store import CommittedEvent
from legation.wire.feed import RevocationPage
from legation.wire.feed.delegation import covers, is_pattern
from legation.wire.protobuf import agent_pb2
from legation.wire.protobuf.agent_pb2 import Event, Events, Heartbeat, SyncResponse

_RESPONSE_EVENTS = bytes([1 << 3 | 2])  # SyncResponse.events, length-delimited
_EVENTS_EVENT = bytes([5 << 3 | 2])  # Events.events, length-delimited
_EVENTS_PAGE = bytes([6 << 3 | 2])  # Events.pages, length-delimited


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedEvent:
    """One event, or a page of revocations, ready for any message.

    Attributes:
        revision: of the event; of the newest one when the page was made.
        audience: the agents that may see it, names and patterns; None for all.
        patterns: those of them that are patterns.
        element: its wire form as an element of `Events.events` or `Events.pages`.
    """

    revision: int
    audience: frozenset[str] | None
    patterns: tuple[str, ...] = ()
    element: bytes = field(repr=False)

    @classmethod
    def encode(cls, committed: CommittedEvent) -> Self:
        """Encode a committed event."""
        signed = committed.signed
        body = Event(body=signed.body, signature=signed.signature).SerializeToString()
        audience = committed.event.audience
        return cls(
            revision=committed.event.revision,
            audience=None if audience is None else frozenset(audience),
            patterns=tuple(filter(is_pattern, audience or ())),
            element=_EVENTS_EVENT + _varint(len(body)) + body,
        )

    @classmethod
    def of_page(cls, page: RevocationPage, *, revision: int) -> Self:
        """Encode a page."""
        return cls(revision=revision, audience=None, element=page_element(page))

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


def events_message(header: Header, elements: Iterable[bytes]) -> bytes:
    """Return a SyncResponse with events."""
    head = Events(
        feed_id=header.feed_id,
        snapshot=header.snapshot,
        complete=header.complete,
        revision=header.revision,
    ).SerializeToString()
    body = b"".join((head, *elements))
    return _RESPONSE_EVENTS + _varint(len(body)) + body


def page_element(page: RevocationPage) -> bytes:
    """Return the wire form of a signed page, as an element of `Events.pages`."""
    body = agent_pb2.RevocationPage(
        document=page.document, signature=page.signature
    ).SerializeToString()
    return _EVENTS_PAGE + _varint(len(body)) + body


def heartbeat_message(*, now_ms: int, revision: int, acknowledged: int = 0) -> bytes:
    """Return a SyncResponse with a heartbeat."""
    heartbeat = Heartbeat(now_ms=now_ms, revision=revision, acknowledged=acknowledged)
    return SyncResponse(heartbeat=heartbeat).SerializeToString()


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
