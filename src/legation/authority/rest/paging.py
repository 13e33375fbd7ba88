"""Lists in pages: at most so many rows, and the key of the last one to go on after."""

import heapq
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from legation.authority.rest.fields import Cursor, PageSize, Request, Shown

ItemT = TypeVar("ItemT")
DEFAULT_PAGE = 100


class Page(Shown, Generic[ItemT]):
    """One page of a list; `next` is null on the last one."""

    items: list[ItemT]
    next: Cursor | None = None


class PageQuery(Request):
    """Which page."""

    after: Cursor | None = None
    limit: PageSize = DEFAULT_PAGE


def page_of(
    items: Iterable[ItemT], query: PageQuery, *, key: Callable[[ItemT], str]
) -> tuple[list[ItemT], str | None]:
    """Return the page of `items` that `query` asks for, and the cursor of the next one.

    Rows are ordered by `key`, so that a row which appears or goes between two pages
    neither repeats nor hides another.
    """
    after = query.after
    rest = items if after is None else (item for item in items if key(item) > after)
    # One more than asked for tells whether there is a next page.
    found = heapq.nsmallest(query.limit + 1, rest, key=key)
    page = found[: query.limit]
    return page, key(page[-1]) if len(found) > query.limit else None
