"""The feed's file on the agent's disk."""

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from legation.agent.upstream import feed_cache
from legation.agent.upstream.feed import FeedReceiver
from legation.agent.upstream.feed_cache import FeedCache
from legation.errors import InternalError, Unavailable
from legation.pki import SpiffeID
from legation.wire.feed import FeedEvent, FeedSigner, Kind, PageRow, Revocation, RevocationPage
from legation.wire.protobuf import agent_pb2 as pb

SIGNER = FeedSigner(ec.generate_private_key(ec.SECP256R1()))


def event(revision, key, value=...):
    signed = SIGNER.sign(
        FeedEvent(
            revision=revision,
            time_ms=0,
            kind=Kind.POLICY,
            key=key,
            value={"n": revision} if value is ... else value,
        )
    )
    return pb.Event(body=signed.body, signature=signed.signature)


def part(*events, revision=0, **fields):
    return pb.Events(feed_id="f", revision=revision, events=events, complete=True, **fields)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "feed.log"


def filled(path, *parts):
    cache = FeedCache(path)
    assert list(cache.load()) == []
    for each in parts:
        cache.append(each)
    cache.close()


def reload(path):
    cache = FeedCache(path)
    try:
        return list(cache.load())
    finally:
        cache.close()


def test_what_was_appended_comes_back(path):
    """Parts come back in order after a restart, from a file that only we can read."""
    parts = [part(event(n, "k"), revision=n) for n in (1, 2, 3)]
    filled(path, *parts)
    assert reload(path) == parts
    assert path.stat().st_mode & 0o777 == 0o600


@settings(max_examples=60)
@given(st.data())
def test_a_torn_or_damaged_tail_is_cut_off(tmp_path_factory, data):
    """Whatever a crash leaves at the end, the parts before it survive, and appending goes on."""
    path = tmp_path_factory.mktemp("cache") / "feed.log"
    parts = [part(event(n, "k"), revision=n) for n in (1, 2, 3)]
    filled(path, *parts)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut] + data.draw(st.binary(max_size=64)))
    cache = FeedCache(path)
    survived = list(cache.load())
    assert survived == parts[: len(survived)]
    assert len(survived) >= sum(1 for end in _ends(parts) if end <= cut)
    cache.append(parts[0])
    cache.close()
    assert reload(path) == [*survived, parts[0]]


def _ends(parts):
    end = 0
    for each in parts:
        end += 8 + each.ByteSize()
        yield end


def test_a_flipped_bit_ends_the_log(path):
    """A record whose checksum does not fit is not read, nor anything after it."""
    parts = [part(event(n, "k"), revision=n) for n in (1, 2, 3)]
    filled(path, *parts)
    content = bytearray(path.read_bytes())
    content[8 + parts[0].ByteSize() + 20] ^= 1
    path.write_bytes(content)
    assert reload(path) == parts[:1]


def test_a_snapshot_replaces_everything(path):
    """After `replace` only the snapshot's parts are there, and appending continues."""
    cache = FeedCache(path)
    list(cache.load())
    cache.append(part(event(1, "old"), revision=1))
    snapshot = part(event(2, "new"), revision=2, snapshot=True)
    cache.replace([snapshot])
    cache.append(part(event(3, "more"), revision=3))
    cache.close()
    assert reload(path) == [snapshot, part(event(3, "more"), revision=3)]


async def test_compaction_keeps_the_newest_of_each_key(path, monkeypatch):
    """Compaction leaves one snapshot of the current events, and what arrived meanwhile."""
    monkeypatch.setattr(feed_cache, "_COMPACT_FROM", 100)
    cache = FeedCache(path)
    list(cache.load())
    cache.append(part(event(1, "a"), event(2, "b"), event(3, "c"), revision=3, snapshot=True))
    assert cache.overgrown
    cache.append(part(event(4, "a"), event(5, "b", None), revision=6))
    compaction = cache.compact(current=lambda e: e.key != "c")
    cache.append(part(event(7, "d"), revision=7))
    await compaction
    assert not cache.overgrown
    cache.append(part(event(8, "e"), revision=8))
    cache.close()
    snapshot = part(event(4, "a"), revision=7, snapshot=True)
    loaded = reload(path)
    assert loaded[0] in (snapshot, part(event(4, "a"), event(7, "d"), revision=7, snapshot=True))
    assert loaded[-1] == part(event(8, "e"), revision=8)


class FullDisk:
    """A file on a disk that takes half of the next write and then nothing."""

    def __init__(self, file):
        self._file = file

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, data):
        return self._file.write(data[: len(data) // 2])


def test_a_full_disk_leaves_no_gap(path):
    """After the disk refused one part no later one is written, until a snapshot replaces all."""
    cache = FeedCache(path)
    list(cache.load())
    cache.append(part(event(1, "a"), revision=1))
    working, cache._file = cache._file, FullDisk(cache._file)
    cache.append(part(event(2, "b"), revision=2))
    assert "No space" in cache.problem
    cache._file = working
    cache.append(part(event(3, "c"), revision=3))
    assert not cache.overgrown
    assert reload(path) == [part(event(1, "a"), revision=1)]
    snapshot = part(event(4, "d"), revision=4, snapshot=True)
    cache.replace([snapshot])
    assert cache.problem is None
    cache.append(part(event(5, "e"), revision=5))
    cache.close()
    assert reload(path) == [snapshot, part(event(5, "e"), revision=5)]


async def test_a_disk_that_refuses_a_rewrite_keeps_the_old_file(path, monkeypatch):
    """Neither a snapshot nor a compaction that cannot be written costs what is there."""
    cache = FeedCache(path)
    list(cache.load())
    cache.append(part(event(1, "a"), revision=1))

    def refuse(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(feed_cache.os, "fsync", refuse)
    cache.replace([part(event(2, "b"), revision=2, snapshot=True)])
    await cache.compact(current=lambda e: True)
    assert "No space" in cache.problem
    cache.close()
    assert reload(path) == [part(event(1, "a"), revision=1)]


async def test_compaction_of_half_an_update_claims_no_more_than_it_holds(path):
    """An update whose later parts are missing compacts to its last event's revision."""
    cache = FeedCache(path)
    list(cache.load())
    cache.append(part(event(1, "a"), revision=1, snapshot=True))
    cache.append(
        pb.Events(feed_id="f", revision=9, events=[event(2, "b"), event(3, "c")], complete=False)
    )
    await cache.compact(current=lambda e: True)
    cache.close()
    (snapshot,) = reload(path)
    assert snapshot.revision == 3


async def test_what_is_kept_goes_through_compaction(path):
    """The first record stays beside the snapshot, without what ended or was spoken of since."""
    cache = FeedCache(path)
    list(cache.load())
    kept = pb.Events(feed_id="f", events=[event(90, "a"), event(91, "b"), event(92, "c")])
    cache.replace([kept, part(event(1, "d"), revision=1, snapshot=True)])
    cache.append(part(event(2, "b", None), revision=2))
    await cache.compact(current=lambda e: e.key != "c")
    cache.append(part(event(3, "e"), revision=3))
    cache.close()
    assert reload(path) == [
        pb.Events(feed_id="f", events=[event(90, "a")]),
        part(event(1, "d"), revision=2, snapshot=True),
        part(event(3, "e"), revision=3),
    ]


async def test_compaction_of_what_is_kept_alone_repeats_nothing(path):
    """A file that lost everything after its first record is compacted to that and no more."""
    cache = FeedCache(path)
    list(cache.load())
    kept = pb.Events(feed_id="f", events=[event(90, "a")])
    cache.append(kept)
    compaction = cache.compact(current=lambda e: True)
    cache.append(part(event(1, "b"), revision=1))
    await compaction
    cache.close()
    first, *rest = reload(path)
    assert first == kept
    assert [len(each.events) for each in rest] in ([0, 1], [1])


def revocation(revision, serial, *, reason="superseded"):
    """Return an event and the row of a page that says the same."""
    value = Revocation(
        serial=serial,
        spiffe_id="spiffe://example.org/x",
        issuer="aa",
        reason=reason,
        revoked_at=datetime(2031, 1, 1, tzinfo=UTC),
        expires_at=datetime(2031, 1, 1, serial, tzinfo=UTC),
    )
    signed = SIGNER.sign(
        FeedEvent(
            revision=revision,
            time_ms=0,
            kind=Kind.REVOCATION,
            key=format(serial, "x"),
            value=value.to_value(),
        )
    )
    return pb.Event(body=signed.body, signature=signed.signature), PageRow.of(value)


def page(*rows):
    document = RevocationPage.make(rows).document
    return pb.RevocationPage(document=document, signature=SIGNER.sign_document(document))


async def test_compaction_keeps_pages_instead_of_events(path):
    """What a page says again is dropped, what says otherwise stays, and so does the page."""
    agent = SpiffeID.parse("spiffe://example.org/legation/agent/one")
    before, after = (FeedReceiver(agent, lambda: [SIGNER.public_key]) for _ in range(2))
    pairs = [revocation(number, number) for number in (1, 2, 3)]
    later, _ = revocation(9, 2, reason="keyCompromise")
    whole, over = page(*(row for _, row in pairs)), page(revocation(1, 20)[1])
    parts = [
        part(revision=0, snapshot=True, pages=[over]),
        part(*(event for event, _ in pairs), revision=3),
        part(revision=3, pages=[whole]),
        part(later, revision=9),
    ]
    cache = FeedCache(path)
    list(cache.load())
    for each in parts:
        before.accept(each)
        cache.append(each)
    del before.state.revocations[20]  # its time has come
    await cache.compact(current=lambda e: int(e.key, 16) in before.state.revocations)
    cache.close()
    (compacted,) = reload(path)
    assert list(compacted.pages) == [whole]
    assert list(compacted.events) == [later]
    after.accept(compacted)
    assert after.state.revocations == before.state.revocations
    assert after.state.revision == 9


async def test_word_of_a_form_beyond_this_version_stays_beside_a_page(path):
    """Nobody here can tell whether the page says the same."""
    cache = FeedCache(path)
    list(cache.load())
    signed = SIGNER.sign(
        FeedEvent(revision=1, time_ms=0, kind=Kind.REVOCATION, key="1", value={"new": "form"})
    )
    strange = pb.Event(body=signed.body, signature=signed.signature)
    cache.append(part(strange, revision=1, snapshot=True, pages=[page(revocation(1, 1)[1])]))
    await cache.compact(current=lambda _: True)
    cache.close()
    (left,) = reload(path)
    assert (list(left.events), len(left.pages)) == ([strange], 1)


async def test_a_page_that_is_kept_goes_through_compaction(path):
    """Beside the snapshot that lacks something of it, until nothing of it counts any more."""
    cache = FeedCache(path)
    list(cache.load())
    kept = page(*(revocation(number, number)[1] for number in (1, 2)))
    snapshot = part(revision=3, snapshot=True, pages=[page(revocation(1, 1)[1])])
    cache.replace([pb.Events(feed_id="f", pages=[kept]), snapshot])
    await cache.compact(current=lambda _: True)
    assert reload(path) == [pb.Events(feed_id="f", pages=[kept]), snapshot]
    await cache.compact(current=lambda e: e.key == "5")
    cache.close()
    (left,) = reload(path)
    assert (list(left.pages), left.revision) == ([], 3)


def test_appending_before_loading_is_a_defect(path):
    """A cache that was not loaded does not know where to append, and says so."""
    with pytest.raises(InternalError):
        FeedCache(path).append(part())


def test_an_unusable_path_is_explained(tmp_path):
    """A directory in the place of the file is reported, not raised as an OSError."""
    (tmp_path / "feed.log").mkdir()
    with pytest.raises(Unavailable, match="cannot be used"):
        list(FeedCache(tmp_path / "feed.log").load())
