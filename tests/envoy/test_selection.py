"""What concerns a proxy is followed, and is always what a look at everything would find."""

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from legation.envoy.revocation import revoked_peers, upstream_facts
from legation.envoy.selection import Selections
from legation.wire.feed import JournaledDict
from legation.wire.feed.journal import REMEMBERED
from tests.support.envoy import API, MOBILE, STRANGER, WEB, Authorities, Feed

_CHANGES = st.lists(
    st.tuples(st.integers(0, 20), st.sampled_from(["odd", "even", None])), max_size=12
)


class _Asked:
    """A question that remembers what it was asked about."""

    def __init__(self, values: JournaledDict[int, str], wanted: str) -> None:
        self.about: list[int] = []
        self._values = values
        self._wanted = wanted

    def everything(self) -> Iterable[int]:
        return [key for key in self._values if self.concerns(key)]

    def concerns(self, key: int) -> bool:
        self.about.append(key)
        return self._values.get(key) == self._wanted


def _select(selections: Selections, values: JournaledDict[int, str], asked: _Asked) -> list[int]:
    found = selections.select(
        "one", values, question="same", everything=asked.everything, concerns=asked.concerns
    )
    return list(found)


@given(st.lists(_CHANGES, max_size=8))
def test_followed_is_looked_up(rounds: list[list[tuple[int, str | None]]]) -> None:
    """However keys come, change and go, the answer is that of a look at everything."""
    values: JournaledDict[int, str] = JournaledDict()
    selections = Selections()
    for changes in rounds:
        for key, value in changes:
            if value is None:
                values.pop(key, None)
            else:
                values[key] = value
        selections = Selections(selections)
        asked = _Asked(values, "odd")
        assert _select(selections, values, asked) == sorted(
            key for key, value in values.items() if value == "odd"
        )


def test_only_what_has_changed_is_asked_about() -> None:
    """An answer costs what has changed; when nothing has, it is the same object."""
    values: JournaledDict[int, str] = JournaledDict()
    values.update(dict.fromkeys(range(1000), "odd"))
    first = Selections()
    _select(first, values, _Asked(values, "odd"))
    values[7] = "even"
    values[2000] = "odd"
    second, asked = Selections(first), _Asked(values, "odd")
    found = _select(second, values, asked)
    assert sorted(asked.about) == [7, 2000]
    assert (7 in found, 2000 in found, len(found)) == (False, True, 1000)
    third = Selections(second)
    _select(third, values, asked)
    assert third.answers["one"].keys is second.answers["one"].keys


def test_too_many_changes_are_looked_up_anew() -> None:
    """What changed longer ago than is remembered is found all the same."""
    values: JournaledDict[int, str] = JournaledDict()
    first = Selections()
    _select(first, values, _Asked(values, "odd"))
    values.update(dict.fromkeys(range(REMEMBERED + 1), "odd"))
    assert values.touched_since(0) is None
    assert len(_select(Selections(first), values, _Asked(values, "odd"))) == REMEMBERED + 1


def test_another_question_or_source_is_answered_anew() -> None:
    """An answer serves only for what it was an answer to."""
    values: JournaledDict[int, str] = JournaledDict()
    values.update({1: "odd", 2: "even"})
    first = Selections()
    _select(first, values, _Asked(values, "odd"))
    asked = _Asked(values, "even")
    other = Selections(first).select(
        "one", values, question="other", everything=asked.everything, concerns=asked.concerns
    )
    assert other == (2,)
    empty: JournaledDict[int, str] = JournaledDict()
    assert _select(Selections(first), empty, _Asked(empty, "odd")) == []


def test_a_proxy_follows_revocations_bans_and_policies(
    feed: Feed, authorities: Authorities
) -> None:
    """Through every change, what is followed is what is found without a memory."""
    selections = Selections()
    leaves = {name: authorities.leaf(name) for name in (WEB, API, MOBILE, STRANGER)}

    def check(serials: int, identities: int, upstream: int) -> None:
        nonlocal selections
        selections = Selections(selections)
        peers = revoked_peers(feed.state, API, selections=selections)
        facts = upstream_facts(feed.state, MOBILE, selections=selections)
        assert peers == revoked_peers(feed.state, API)
        assert facts == upstream_facts(feed.state, MOBILE)
        assert (len(peers.serials), len(peers.identities), len(facts)) == (
            serials,
            identities,
            upstream,
        )

    feed.allow(WEB)
    check(0, 0, 0)
    for leaf in leaves.values():
        feed.revoke(leaf)
    check(1, 0, 1)
    feed.ban(WEB)
    feed.ban(MOBILE)
    check(1, 1, 2)
    feed.allow(WEB, MOBILE)  # who was refused by policy is let in, were it not revoked
    check(2, 2, 2)
    del feed.state.bans[WEB]
    del feed.state.revocations[leaves[WEB].certificate.serial_number]
    check(1, 1, 2)
