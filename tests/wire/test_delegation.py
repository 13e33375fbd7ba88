"""Agents that an entry names one by one, or by the beginning of their names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legation.errors import InvalidInput
from legation.wire.feed import FeedEvent, Kind, WorkloadEntry
from legation.wire.feed.delegation import covers, example_of, includes, is_pattern

PREFIX = "spiffe://example.org/legation/agent/"
APP = f"{PREFIX}ci__octo-org_2fapp__*"
OWNER = f"{PREFIX}ci__octo-org_2f*"


@pytest.mark.parametrize(
    ("pattern", "name", "meant"),
    [
        (APP, "ci__octo-org_2fapp__1234", True),
        (APP, "ci__octo-org_2fapp__1234__5", True),
        (APP, "ci__octo-org_2fapp__", False),
        (APP, "ci__octo-org_2fapp", False),
        (APP, "ci__octo-org_2fapp-of-a-stranger__1", False),
        (APP, "ci__evil_2focto-org_2fapp__1", False),
        (OWNER, "ci__octo-org_2fapp__1234", True),
        (OWNER, "ci__octo-org-2_2fapp__1234", False),
    ],
)
def test_whom_a_pattern_means(pattern: str, name: str, meant: bool) -> None:
    """Agents whose names begin with the same whole parts, and go on; nobody else."""
    agent = PREFIX + name
    assert covers(pattern, agent) is meant
    assert includes((f"{PREFIX}node-1", pattern), agent) is meant
    assert (
        FeedEvent(
            revision=1, time_ms=1, kind=Kind.ENTRY, key="e", value=None, audience=(pattern,)
        ).visible_to(agent)
        is meant
    )


@given(st.text(alphabet="abc_2f*/.-", max_size=24))
def test_whatever_is_accepted_means_agents_below_the_path_only(name: str) -> None:
    """Any text is a name, a pattern with something before its star, or refused in words."""
    try:
        example = str(example_of(PREFIX + name))
    except InvalidInput:
        return
    assert includes([PREFIX + name], example)
    assert example.startswith(PREFIX)
    assert not includes([PREFIX + name], PREFIX + "another")


def test_a_name_means_one_agent() -> None:
    """A name without a star is compared as a whole."""
    assert includes((f"{PREFIX}a",), f"{PREFIX}a")
    assert not includes((f"{PREFIX}a",), f"{PREFIX}ab")
    assert not is_pattern(f"{PREFIX}a")
    assert str(example_of(f"{PREFIX}a")) == f"{PREFIX}a"


@pytest.mark.parametrize(
    "text",
    [
        "*",
        "spiffe://*",
        "spiffe://example.org/*",
        f"{PREFIX}*",
        f"{PREFIX}__*",
        f"{PREFIX}_2f*",
        f"{PREFIX}ci*",
        f"{PREFIX}ci__octo-org_2fapp*",
        f"{PREFIX}ci__**",
        f"{PREFIX}*__ci__*",
        f"{PREFIX}ci__ __*",
        f"{PREFIX}ci__\n__*",
        "https://example.org/ci__*",
    ],
)
def test_what_means_too_many_or_nobody_is_refused(text: str) -> None:
    """A star stands for whole parts, and something stands before it."""
    with pytest.raises(InvalidInput):
        example_of(text)
    with pytest.raises(InvalidInput):
        _entry(text)


def test_an_entry_is_delegated_to_whom_it_means() -> None:
    """An entry has names and patterns beside each other, and survives the trip."""
    entry = _entry(f"{PREFIX}node-1", APP)
    assert WorkloadEntry.from_value(entry.to_value()) == entry
    assert entry.is_delegated_to(f"{PREFIX}node-1")
    assert entry.is_delegated_to(f"{PREFIX}ci__octo-org_2fapp__7")
    assert not entry.is_delegated_to(f"{PREFIX}node-2")


def _entry(*agents: str) -> WorkloadEntry:
    return WorkloadEntry.from_value(
        {
            "id": "e",
            "spiffe_id": "spiffe://example.org/e",
            "selectors": ["unix:uid:1"],
            "agents": list(agents),
        }
    )
