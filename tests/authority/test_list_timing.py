"""When a list follows a revocation: after those who are pushed to, and never long after."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from legation.authority.agents.propagation import READS_LISTS, PropagationBoard
from legation.authority.agents.stated_points import StatedPoint
from legation.authority.events import CRLPublished
from legation.authority.revoking import crl_lists, crl_publisher, gathering
from legation.authority.revoking.scopes import SerialScope
from legation.errors import InvalidInput, Unavailable
from legation.pki import RevocationList, SpiffeID, build_request, generate_key
from tests.support.authority import ADMIN, Agent, World, certificate_of, running, settings_for

LATEST_S, PATIENCE_S = gathering.LATEST_S, gathering.PATIENCE_S


class Scene:
    """A running authority, certificates to revoke, and an agent that says what a test has it say.

    Attributes:
        serials: of certificates that nobody has revoked.
    """

    def __init__(self, world: World, agent: Agent, serials: list[int]) -> None:
        self.world = world
        self.serials = serials
        board: Any = world.services.propagation
        self.board: PropagationBoard = board
        self._agent: SpiffeID = agent.spiffe_id

    def connect(self) -> None:
        self.board.connected(self._agent, self, version="1", revision=0)

    def say(self, revision: int, *, point: int | None = None, kind: str = "envoy") -> None:
        """Have the agent state a revision, and an enforcement point of its another one."""
        applied = revision if point is None else point
        points = [StatedPoint(id="p", kind=kind, spiffe_id="x", revision=applied, applied_at=None)]
        self.board.state(self._agent, revision=revision, points=points)

    async def revoke(self, reason: str = "superseded") -> int:
        """Revoke one more certificate; return the revision."""
        outcome = await self.world.services.revocations.revoke_serial(
            self.serials.pop(), reason=reason, actor=ADMIN
        )
        return outcome.revision

    @property
    def published(self) -> list[CRLPublished]:
        return self.world.heard(CRLPublished)

    async def next_list_s(self) -> float:
        """Wait for one list more; return how long that took."""
        count, begun = len(self.published), time.perf_counter()
        async with asyncio.timeout(5):
            while len(self.published) == count:
                await asyncio.sleep(0.005)
        return time.perf_counter() - begun

    def listed(self) -> set[int]:
        """Return whom the newest list names, all of it read anew."""
        status = self.world.services.status
        (issuer,) = (row["key_id"] for row in status.status()["issuers"] if row["role"] != "root")
        return set(RevocationList.from_der(status.crl(issuer, 0)).entries)


async def scene_in(world: World, count: int = 12) -> Scene:
    agent = await world.enrol()
    entry = await world.entry(agent)
    async with agent.connected() as caller:
        results = await caller.issue(
            *((entry.id, build_request(generate_key())) for _ in range(count))
        )
    return Scene(world, agent, [certificate_of(result).serial_number for result in results])


@pytest.fixture
async def scene(world: World) -> Scene:
    return await scene_in(world)


async def test_a_list_follows_the_acknowledgement(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the agent and of its enforcement point, however long that takes."""
    monkeypatch.setattr(gathering, "LATEST_S", 60)
    monkeypatch.setattr(gathering, "PATIENCE_S", 60)
    scene.connect()
    revision = await scene.revoke()
    await asyncio.sleep(0.15)
    scene.say(revision, point=revision - 1)
    await asyncio.sleep(0.15)
    assert scene.published == []
    scene.say(revision)
    assert await scene.next_list_s() < LATEST_S / 2


async def test_whoever_never_acknowledges_delays_a_list_for_a_moment(scene: Scene) -> None:
    """A fifth of a second, and no longer."""
    scene.connect()
    await scene.revoke()
    assert PATIENCE_S * 0.9 < await scene.next_list_s() < LATEST_S


async def test_as_long_as_more_and_more_acknowledge_the_others_are_waited_for(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand take longer than one, but not for ever."""
    monkeypatch.setattr(gathering, "LATEST_S", 0.7)
    scene.connect()
    other = await scene.world.enrol("two")
    scene.board.connected(other.spiffe_id, other, version="1", revision=0)
    revision = await scene.revoke()

    async def acknowledge() -> None:
        while True:
            scene.say(revision)
            await asyncio.sleep(0.05)

    acknowledging = asyncio.ensure_future(acknowledge())
    took_s = await scene.next_list_s()
    acknowledging.cancel()
    assert 0.6 < took_s < 1.4


async def test_with_nobody_to_tell_a_list_follows_at_once(scene: Scene) -> None:
    """An agent that is enrolled and not connected is nobody."""
    await scene.revoke()
    assert await scene.next_list_s() < LATEST_S / 2


async def test_who_leaves_is_waited_for_no_more(scene: Scene) -> None:
    """It gets what it missed when it comes back."""
    scene.connect()
    await scene.revoke()
    scene.board.disconnected(scene._agent, scene)
    assert await scene.next_list_s() < LATEST_S / 2


async def test_who_is_told_by_lists_is_not_waited_for(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that reads files has a revocation in force with the list, so never before it."""
    monkeypatch.setattr(gathering, "LATEST_S", 60)
    monkeypatch.setattr(gathering, "PATIENCE_S", 60)
    scene.connect()
    revision = await scene.revoke()
    scene.say(revision, point=0, kind=READS_LISTS)
    assert await scene.next_list_s() < LATEST_S / 2


async def test_a_burst_makes_few_lists(scene: Scene) -> None:
    """Also where it lasts longer than the first acknowledgement takes."""
    scene.connect()
    for _ in range(10):
        scene.say(await scene.revoke() - 1)
        await asyncio.sleep(0.02)
    await scene.next_list_s()
    await asyncio.sleep(LATEST_S * 1.5)
    assert len(scene.published) <= 2
    assert len(scene.listed()) == 10


async def test_lists_that_age_wait_for_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next ones come out while a revocation is not acknowledged yet; they name it as well."""
    monkeypatch.setattr(gathering, "LATEST_S", 60)
    async with running(settings_for(tmp_path, crl_validity_s=8, crl_refresh_s=1)) as world:
        scene = await scene_in(world, 1)
        (serial,) = scene.serials
        scene.connect()
        await scene.revoke()
        async with asyncio.timeout(5):
            while not scene.published or serial not in scene.listed():
                await asyncio.sleep(0.05)


# --- lists that add to the one before ----------------------------------------------------------


@pytest.fixture
def anew(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the shards whose lists are made of all their lines."""
    made: list[int] = []

    def noted(issuer: Any, shard: int, *arguments: Any, **named: Any) -> crl_lists.Lists:
        made.append(shard)
        return crl_lists.next_lists(issuer, shard, *arguments, **named)

    monkeypatch.setattr(crl_publisher, "next_lists", noted)
    return made


async def test_a_list_adds_to_the_one_before_it(scene: Scene, anew: list[int]) -> None:
    """The first after a start is made of everything, the next ones are not, and say the same."""
    serials = set(scene.serials)
    for _ in range(3):
        await scene.revoke()
        await scene.next_list_s()
        assert scene.listed() == serials - set(scene.serials)
        assert scene.published[-1].entries == len(scene.listed())
    assert anew == [0]


async def test_what_only_adding_cannot_say_is_made_anew(scene: Scene, anew: list[int]) -> None:
    """A hold that becomes a revocation, and a release from hold."""
    services = scene.world.services
    held, other = scene.serials[-2:]
    await scene.revoke()
    await scene.next_list_s()
    await scene.revoke("certificateHold")
    await scene.next_list_s()
    assert (anew, scene.listed()) == ([0], {held, other})
    await services.revocations.revoke_serial(held, reason="keyCompromise", actor=ADMIN)
    await scene.next_list_s()
    assert (len(anew), scene.listed()) == (2, {held, other})
    await scene.revoke("certificateHold")
    await scene.next_list_s()
    (third,) = scene.listed() - {held, other}
    await services.revocations.release(SerialScope(serial=third), actor=ADMIN)
    count = len(scene.published)
    async with asyncio.timeout(5):
        # A release does not say whose it was: the root's list comes as well.
        while len(scene.published) < count + 2:
            await asyncio.sleep(0.005)
    assert (len(anew), scene.listed()) == (4, {held, other})


async def test_a_list_that_cannot_be_added_to_is_made_anew(
    scene: Scene, anew: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the gate refuses does not stay unpublished."""
    for _ in range(2):
        await scene.revoke()
        await scene.next_list_s()
    assert anew == [0]

    def refused(*_arguments: Any, **_named: Any) -> Any:
        raise InvalidInput("it does not begin with the lines of the one before it")

    monkeypatch.setattr(crl_publisher, "following_list", refused)
    await scene.revoke()
    await scene.next_list_s()
    assert len(anew) == 2
    assert len(scene.listed()) == 3


async def test_where_every_line_is_read_anyway_lists_are_made_anew(
    tmp_path: Path, anew: list[int]
) -> None:
    """A delta list compares all lines, and a compact set holds them."""
    for number, setting in enumerate(("crl_delta", "crl_compact"), start=1):
        settings = settings_for(
            tmp_path / setting, status_url="http://status.example", **{setting: True}
        )
        async with running(settings) as world:
            scene = await scene_in(world, 2)
            for _ in range(2):
                await scene.revoke()
                await scene.next_list_s()
        assert len(anew) == 2 * number


async def test_a_long_list_that_was_not_recorded_is_made_again_after_a_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a number above all that were out, even if the clock has gone back to before them.

    Until then there is none: the last one that was recorded lacks who was revoked after it.
    """
    async with running(settings_for(tmp_path)) as world:
        scene = await scene_in(world, 3)
        serials = set(scene.serials)
        await scene.revoke()
        await scene.next_list_s()
        monkeypatch.setattr(crl_publisher, "MAX_INLINE", 10)
        for _ in range(2):
            await scene.revoke()
            await scene.next_list_s()
        newest = scene.published[-1].number
        await world.stop()
        monkeypatch.setattr(crl_lists, "round", lambda _number: 1, raising=False)
        world.events.clear()
        monkeypatch.setattr(gathering, "COALESCE_S", 0.4)
        await world.start()
        with pytest.raises(Unavailable, match="made again"):
            scene.listed()
        async with asyncio.timeout(5):
            while not scene.published:
                await asyncio.sleep(0.005)
        assert scene.listed() == serials
        assert scene.published[-1].number == newest + 1
