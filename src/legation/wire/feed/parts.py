"""One signature for several events that travel together.

To check a signature takes an agent longer than all else that it does with an event, and what is
revoked at once is often more than one. So the authority signs what it sends together once more,
as a whole::

    legation-feed-part-1 LF
    each event as it is on the wire: an element of `Events.events` (protobuf encoding)

Each event keeps its own signature, which is what makes it true wherever it is kept or carried
alone.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from legation.errors import NotAuthenticated
from legation.wire.feed.events import SignedEvent, signed_by_any

_MAGIC: Final = b"legation-feed-part-1\n"
_EVENTS_EVENT: Final = bytes([5 << 3 | 2])  # Events.events, length-delimited
_EVENT_BODY: Final = bytes([1 << 3 | 2])  # Event.body, likewise
_EVENT_SIGNATURE: Final = bytes([2 << 3 | 2])  # Event.signature, likewise


def event_element(body: bytes, signature: bytes) -> bytes:
    """Return a signed event as an element of `Events.events`; neither is empty."""
    event = delimited(_EVENT_BODY, body) + delimited(_EVENT_SIGNATURE, signature)
    return delimited(_EVENTS_EVENT, event)


def part_document(elements: Iterable[bytes]) -> bytes:
    """Return what is signed of events that travel together, in their order."""
    return _MAGIC + b"".join(elements)


def checked_together(
    events: Iterable[SignedEvent], signature: bytes, keys: Iterable[bytes]
) -> bool:
    """Check the signature of events that came together; False if there is none.

    Args:
        events: in their order.
        signature: of them all.
        keys: of the feed.

    Raises:
        NotAuthenticated: no key in `keys` has signed them as they are.
    """
    if not signature:
        return False
    document = part_document([event_element(each.body, each.signature) for each in events])
    if not signed_by_any(keys, signature, document):
        raise NotAuthenticated("no known feed key has signed these events as they came")
    return True


def delimited(tag: bytes, content: bytes) -> bytes:
    """Return a field of a message: its tag, the length of its content, and that."""
    return b"".join((tag, _varint(len(content)), content))


@lru_cache(maxsize=1024)  # events are much the same in length
def _varint(number: int) -> bytes:
    octets = bytearray()
    while number > 0x7F:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    octets.append(number)
    return bytes(octets)
