"""The pages of revocations that agents are given: made once, signed once, sent to all.

What has expired makes pages sparse, and two sparse ones become one. No agent is told of that:
who has the old ones refuses the same.
"""

from collections.abc import Callable, Iterable, Sequence

from legation.authority.feed.messages import Header, Part, events_message, page_element
from legation.errors import LimitExceeded
from legation.wire.feed import PageRow, RevocationPage, Revocations
from legation.wire.feed.page_outline import MAX_ROWS
from legation.wire.feed.revocations import HeldPage

_SPARSE = MAX_ROWS // 4  # two of them are made one in some 20 ms


class RevocationPages:
    """Makes the pages of a feed's state, and the messages that a snapshot has of them."""

    def __init__(
        self, revocations: Revocations, *, feed_id: str, sign: Callable[[bytes], bytes]
    ) -> None:
        """Make pages of `revocations`, which nobody else makes any of.

        Args:
            revocations: of the state.
            feed_id: the feed.
            sign: signs a document with the feed key.
        """
        self._revocations = revocations
        self._feed_id = feed_id
        self._sign = sign
        self._messages: dict[RevocationPage, bytes] = {}

    def add(self, rows: Sequence[PageRow]) -> list[RevocationPage]:
        """Put up to 4096 revocations in a page, or in some if they have much text.

        Where one of them was a single one in the state, it no longer is.
        """
        pages = _made(rows)
        for page in pages:
            page.signature = self._sign(page.document)
            self._revocations.adopt(page)
        return pages

    def merge(self) -> None:
        """Make one page of two of which few rows count, if there are two."""
        sparse = [held for held in self._revocations.pages() if len(held) <= _SPARSE]
        if len(sparse) > 1:
            self._make_anew(sparse[:2])

    def messages(self) -> list[bytes]:
        """Return the messages of a snapshot that carry the pages; they neither begin nor end it."""
        for held in self._revocations.pages():
            if held.spoiled:  # an agent that joins must not be told what no longer holds
                self._make_anew([held])
        pages = [held.page for held in self._revocations.pages()]
        self._messages = {page: self._messages.get(page) or self._message(page) for page in pages}
        return list(self._messages.values())

    def _message(self, page: RevocationPage) -> bytes:
        # Without a revision: only the last part of a snapshot says where it leads.
        header = Header(feed_id=self._feed_id, revision=0, complete=False)
        return events_message(header, Part(content=page_element(page)))

    def _make_anew(self, pages: Iterable[HeldPage]) -> None:
        rows: list[PageRow] = []
        for held in pages:
            rows += (held.page.row(row) for row in held.rows())
            self._revocations.drop(held)
        self.add(rows)


def _made(rows: Sequence[PageRow]) -> list[RevocationPage]:
    try:
        return [RevocationPage.make(rows)]
    except LimitExceeded:
        if len(rows) == 1:
            raise
        half = len(rows) // 2
        return _made(rows[:half]) + _made(rows[half:])
