"""What a source states to be in force, with parts that hold connections."""

import pytest

from legation.clock import FixedClock
from legation.errors import Conflict, NotFound
from legation.sdk.core import SourceCore
from legation.sdk.knowledge import Knowledge
from tests.support.pki import NOW
from tests.support.sdk_messages import changes, packed


@pytest.fixture
def source():
    source = SourceCore(Knowledge(FixedClock(NOW)))
    hear(source, snapshot=True, complete=True, revision=5)
    return source


def hear(source, **fields):
    source.knowledge.enforcement.accept(changes(**fields), clock=source.knowledge.clock)


def test_without_parts_what_is_known_is_in_force(source):
    """A revision is stated as soon as it is known when nobody holds connections."""
    assert source.statement().revision == 5
    hear(source, complete=True, revision=6, revoked=packed(1))
    assert source.statement().revision == 6


def test_the_slowest_part_counts(source):
    """With two parts the revision of the slower one is stated, and the notes of both."""
    source.attach("a", ["x"])
    source.attach("b", ["y", "x"])
    hear(source, complete=True, revision=6, revoked=packed(1))
    assert source.statement().revision == 5
    source.applied("a", 6, ["of a"])
    assert source.statement().revision == 5
    source.applied("b", 6)
    statement = source.statement()
    assert (statement.revision, statement.capabilities) == (6, ("x", "y"))
    assert statement.notes == ("of a",)


def test_a_revision_without_news_needs_no_part(source):
    """What changes nothing is in force once everything before it is."""
    source.attach("a")
    hear(source, complete=True, revision=6)
    assert source.statement().revision == 6
    hear(source, complete=True, revision=7, revoked=packed(1))
    hear(source, complete=True, revision=8)
    assert source.statement().revision == 6
    source.applied("a", 7)
    assert source.statement().revision == 8


def test_a_feed_that_goes_back_is_applied_anew(source):
    """What a part has applied of an earlier feed does not count for a restored one."""
    source.attach("a")
    hear(source, complete=True, revision=9, revoked=packed(1))
    source.applied("a", 9)
    hear(source, snapshot=True, complete=True, revision=7, revoked=packed(2))
    assert source.statement().revision == 0
    source.applied("a", 7)
    assert source.statement().revision == 7


def test_names_are_unique_and_known(source):
    """A name is attached once, and only what is attached can have applied anything."""
    detach = source.attach("a")
    with pytest.raises(Conflict, match="attached"):
        source.attach("a")
    detach()
    with pytest.raises(NotFound, match="attached"):
        source.applied("a", 5)
