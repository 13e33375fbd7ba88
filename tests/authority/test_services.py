"""Entries, policies, tokens, enrolment and operators."""

import asyncio
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from legation.authority.enrolment import _FAILURE_BURST
from legation.authority.event_log import EventLog
from legation.authority.events import Enrolled, EventBus, Issued, Refused
from legation.authority.model import Evidence, Role
from legation.errors import (
    Conflict,
    InvalidInput,
    NotAuthenticated,
    NotFound,
    NotPermitted,
    Unavailable,
)
from legation.pki import SpiffeID, build_request, certificate_from_der, generate_key
from legation.wire.feed import Kind
from tests.support.authority import ADMIN, World, agent_id, running, settings_for, spiffe_id
from tests.support.policies import allow

ENTRY = {
    "spiffe_id": "spiffe://example.org/api",
    "selectors": ["unix:uid:1000"],
    "agents": ["spiffe://example.org/legation/agent/one"],
}
POLICY = allow("spiffe://example.org/api", "spiffe://example.org/web", name="p")


def csr() -> bytes:
    return build_request(generate_key())


async def last_audit(world: World) -> Any:
    return (await world.services.audit.read(after=0, limit=1000))[-1]


# Entries


async def test_an_entry_is_created_changed_and_deleted(world: World) -> None:
    """Each change is in the feed and in the audit log, with who did it."""
    entries = world.services.entries
    created = await entries.create(ENTRY, actor=ADMIN)
    assert re.fullmatch("[0-9a-f]{16}", created.id)
    assert entries.get(created.id) == created
    assert list(entries.list()) == [created]
    changed = await entries.update(created.id, {"owner": "me"}, actor=ADMIN)
    assert changed == created.model_copy(update={"owner": "me"})
    await entries.delete(created.id, actor=ADMIN)
    assert list(entries.list()) == []
    log = await world.services.audit.read(after=0, limit=100)
    assert [e.action for e in log if e.action.startswith("entry.")] == [
        "entry.create",
        "entry.update",
        "entry.delete",
    ]
    assert (log[-1].actor, log[-1].subject) == (str(ADMIN.spiffe_id), ENTRY["spiffe_id"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"spiffe_id": "https://x"}, "spiffe_id: "),
        ({"spiffe_id": "spiffe://other.example/api"}, r"not in the trust domain example\.org"),
        ({"spiffe_id": "spiffe://example.org"}, "has a path"),
        ({"spiffe_id": "spiffe://example.org/legation/operator/x"}, "are reserved"),
        ({"agents": ["spiffe://example.org/api"]}, "is not an agent's identity"),
        ({"agents": ["spiffe://other.example/legation/agent/a"]}, "is not an agent's identity"),
        ({"agents": ["spiffe://example.org/legation/agent/a/b"]}, "is not an agent's identity"),
        ({"agents": []}, "agents: "),
        ({"selectors": ["nonsense"]}, "selectors.0: "),
        ({"lifetime_s": 1}, "lifetime_s: "),
        ({"lifetime_s": 86_401}, "more than this authority's maximum of 86400"),
        ({"key_algorithm": "rsa-1024"}, "key_algorithm: 'rsa-1024' is not accepted"),
        ({"dns_names": ["UPPER.example"]}, "dns_names.0: "),
        ({"lifetime": 60}, "did you mean lifetime_s"),
        ({"id": "a b"}, "id: "),
    ],
)
async def test_an_entry_that_makes_no_sense_is_refused(
    world: World, fields: dict[str, Any], message: str
) -> None:
    """In one line that names the field; nothing is changed."""
    entries = world.services.entries
    before = world.services.status.status()["revision"]
    with pytest.raises(InvalidInput, match=message) as caught:
        await entries.create({**ENTRY, **fields}, actor=ADMIN)
    assert "\n" not in str(caught.value)
    created = await entries.create({"id": "e", **ENTRY}, actor=ADMIN)
    with pytest.raises(InvalidInput):
        await entries.update("e", fields, actor=ADMIN)
    assert list(entries.list()) == [created]
    assert world.services.status.status()["revision"] == before + 1


async def test_entries_that_are_not_there(world: World) -> None:
    """Are not found; an id that is taken conflicts."""
    entries = world.services.entries
    for work in (
        entries.update("x", {}, actor=ADMIN),
        entries.delete("x", actor=ADMIN),
    ):
        with pytest.raises(NotFound):
            await work
    await entries.create({"id": "e", **ENTRY}, actor=ADMIN)
    with pytest.raises(Conflict, match="exists already"):
        await entries.create({"id": "e", **ENTRY}, actor=ADMIN)


async def test_of_two_changes_at_once_one_is_told_to_look_again(world: World) -> None:
    """Neither is lost without notice."""
    await world.services.entries.create({"id": "e", **ENTRY}, actor=ADMIN)
    answers = await asyncio.gather(
        world.services.entries.update("e", {"owner": "a"}, actor=ADMIN),
        world.services.entries.update("e", {"owner": "b"}, actor=ADMIN),
        return_exceptions=True,
    )
    assert sorted(isinstance(answer, Conflict) for answer in answers) == [False, True]


# Policies


async def test_a_policy_is_put_and_deleted(world: World) -> None:
    """Putting what is there already changes nothing."""
    policies = world.services.policies
    policy, changed = await policies.put(POLICY, actor=ADMIN)
    assert changed
    revision = world.services.status.status()["revision"]
    assert await policies.put(POLICY, actor=ADMIN) == (policy, False)
    assert world.services.status.status()["revision"] == revision
    denying = {**POLICY, "spec": {**POLICY["spec"], "action": "DENY"}}
    assert (await policies.put(denying, actor=ADMIN))[1]
    assert policies.get("p").action == "DENY"
    await policies.delete("p", actor=ADMIN)
    assert list(policies.list()) == []
    assert (await last_audit(world)).action == "policy.delete"
    with pytest.raises(NotFound):
        await policies.delete("p", actor=ADMIN)
    with pytest.raises(InvalidInput, match=r"spec\.action"):
        await policies.put({**POLICY, "spec": {**POLICY["spec"], "action": "X"}}, actor=ADMIN)


# Tokens and enrolment


async def test_a_token_is_shown_once_and_not_kept(world: World) -> None:
    """160 random bits; the database holds their hash only."""
    tokens = world.services.tokens
    row, secret = await tokens.create(agent_id("one"), lifetime_s=60, actor=ADMIN)
    assert re.fullmatch("lgt_[a-z2-7]{32}", secret)
    assert list(await tokens.list()) == [row]
    assert (row.expires_at - row.created_at).total_seconds() == 60
    stored = b"".join(path.read_bytes() for path in world.settings.data_dir.glob("authority.db*"))
    assert secret.encode() not in stored
    assert secret.removeprefix("lgt_").encode() not in stored
    await tokens.delete(row.id, actor=ADMIN)
    assert list(await tokens.list()) == []
    with pytest.raises(NotFound):
        await tokens.delete(row.id, actor=ADMIN)


@pytest.mark.parametrize(
    ("agent", "lifetime_s", "message"),
    [
        (spiffe_id("/api"), 60, "not an agent's identity"),
        (SpiffeID.parse("spiffe://other.example/legation/agent/a"), 60, "not an agent's"),
        (agent_id("one"), 0, "1 to 2592000 seconds"),
        (agent_id("one"), 2_592_001, "1 to 2592000 seconds"),
    ],
)
async def test_a_token_that_makes_no_sense_is_refused(
    world: World, agent: SpiffeID, lifetime_s: int, message: str
) -> None:
    """For whom, or for how long."""
    with pytest.raises(InvalidInput, match=message):
        await world.services.tokens.create(agent, lifetime_s=lifetime_s, actor=ADMIN)


async def test_an_agent_joins_with_its_token(world: World) -> None:
    """It gets a certificate of its own name, the bundle, the feed keys and the port."""
    _, secret = await world.services.tokens.create(agent_id("one"), lifetime_s=60, actor=ADMIN)
    key = generate_key()
    evidence = Evidence.join_token(secret)
    enrolment = await world.services.enrolment.enrol(evidence, build_request(key))
    leaf = certificate_from_der(enrolment.chain[0])
    assert leaf.public_key() == key.public_key()
    assert len(enrolment.chain) == 2
    assert enrolment.bundle == world.services.status.bundle_document()
    assert [len(key) for key in enrolment.feed_keys] == [65]
    record = await world.services.certificates.get(leaf.serial_number)
    assert (record.profile, record.spiffe_id) == ("agent", str(agent_id("one")))
    log = await world.services.audit.read(after=0, limit=100)
    assert [e.action for e in log[-2:]] == ["agent.enrol", "certificate.issue"]
    (event,) = world.heard(Enrolled)
    assert event.serial == leaf.serial_number


@pytest.mark.parametrize("case", ["replayed", "expired", "withdrawn", "unknown", "malformed"])
async def test_a_token_that_lets_nobody_in_says_why(world: World, case: str) -> None:
    """Each failure has its own words, and nothing is issued."""
    tokens, enrolment = world.services.tokens, world.services.enrolment
    row, secret = await tokens.create(
        agent_id("one"), lifetime_s=1 if case == "expired" else 60, actor=ADMIN
    )
    message = {
        "replayed": "was used already",
        "expired": "expired at",
        "withdrawn": "no such join token",
        "unknown": "no such join token",
        "malformed": "is not a join token",
    }[case]
    if case == "replayed":
        await enrolment.enrol(Evidence.join_token(secret), csr())
    elif case == "expired":
        await asyncio.sleep(1.01)
    elif case == "withdrawn":
        await tokens.delete(row.id, actor=ADMIN)
    elif case == "unknown":
        secret = "lgt_" + "a" * 32
    else:
        secret = secret.upper() + "\n"
    issued = len(await world.services.certificates.search())
    with pytest.raises(NotAuthenticated, match=message):
        await enrolment.enrol(Evidence.join_token(secret), csr())
    assert len(await world.services.certificates.search()) == issued
    assert world.heard(Refused)[-1].action == "agent.enrol"
    assert secret not in str(world.events)


async def test_a_request_that_is_refused_does_not_spend_the_token(world: World) -> None:
    """The agent may try again with a better one."""
    _, secret = await world.services.tokens.create(agent_id("one"), lifetime_s=60, actor=ADMIN)
    for bad in (b"nonsense", build_request(generate_key(), spiffe_id=agent_id("two"))):
        with pytest.raises(InvalidInput):
            await world.services.enrolment.enrol(Evidence.join_token(secret), bad)
    assert await world.services.enrolment.enrol(Evidence.join_token(secret), csr())


async def test_of_many_who_spend_a_token_one_gets_in(world: World) -> None:
    """However close together they come."""
    _, secret = await world.services.tokens.create(agent_id("one"), lifetime_s=60, actor=ADMIN)
    answers = await asyncio.gather(
        *(world.services.enrolment.enrol(Evidence.join_token(secret), csr()) for _ in range(10)),
        return_exceptions=True,
    )
    assert sum(isinstance(answer, NotAuthenticated) for answer in answers) == 9


async def test_guessing_is_slowed_down_and_joining_is_not(world: World) -> None:
    """After a burst of failures guesses learn nothing; a valid token still works."""
    _, secret = await world.services.tokens.create(agent_id("one"), lifetime_s=60, actor=ADMIN)
    guess = Evidence.join_token("lgt_" + "b" * 32)
    answers = await asyncio.gather(
        *(world.services.enrolment.enrol(guess, csr()) for _ in range(80)),
        return_exceptions=True,
    )
    assert sum(isinstance(answer, NotAuthenticated) for answer in answers) <= _FAILURE_BURST + 5
    assert any(isinstance(answer, Unavailable) for answer in answers)
    assert len(world.heard(Refused)) <= _FAILURE_BURST + 5
    assert await world.services.enrolment.enrol(Evidence.join_token(secret), csr())


async def test_a_banned_agent_gets_no_token_and_cannot_spend_one(world: World) -> None:
    """Until the ban is lifted."""
    services = world.services
    _, secret = await services.tokens.create(agent_id("one"), lifetime_s=60, actor=ADMIN)
    await services.revocations.revoke_identity(
        agent_id("one"), reason="unspecified", ban=True, actor=ADMIN
    )
    with pytest.raises(Conflict, match="is banned"):
        await services.tokens.create(agent_id("one"), lifetime_s=60, actor=ADMIN)
    with pytest.raises(NotPermitted, match="is banned"):
        await services.enrolment.enrol(Evidence.join_token(secret), csr())
    await services.revocations.lift(agent_id("one"), actor=ADMIN)
    assert await services.enrolment.enrol(Evidence.join_token(secret), csr())


# Operators


async def test_an_operator_is_created_renewed_and_disabled(world: World) -> None:
    """It is let in with its own role, until it is disabled, and again when re-created."""
    operators = world.services.operators
    operator, chain = await operators.create("eve", Role.VIEWER, csr(), lifetime_s=600, actor=ADMIN)
    leaf = certificate_from_der(chain[0])
    assert len(chain) == 2
    lifetime = (leaf.not_valid_after_utc - leaf.not_valid_before_utc).total_seconds()
    assert 600 <= lifetime <= 662
    actor = operators.authenticate(operator.spiffe_id, leaf.serial_number, issuer_name="")
    assert (actor.spiffe_id, actor.role) == (spiffe_id("/legation/operator/eve"), Role.VIEWER)
    renewed = await operators.renew(csr(), actor=actor)
    assert certificate_from_der(renewed[0]).serial_number != leaf.serial_number
    await operators.disable("eve", actor=ADMIN)
    for refused in (
        lambda: operators.authenticate(operator.spiffe_id, leaf.serial_number, issuer_name=""),
        lambda: operators.authenticate(spiffe_id("/legation/operator/nobody"), 1, issuer_name=""),
    ):
        with pytest.raises(NotAuthenticated):
            refused()
    with pytest.raises(NotAuthenticated, match="is disabled"):
        await operators.renew(csr(), actor=actor)
    await operators.create("eve", Role.OPERATOR, csr(), lifetime_s=None, actor=ADMIN)
    assert operators.authenticate(operator.spiffe_id, 1, issuer_name="").role is Role.OPERATOR
    rows = {row.spiffe_id: row for row in await operators.list()}
    assert rows[operator.spiffe_id].created_at == operator.created_at


@pytest.mark.parametrize(
    ("name", "lifetime_s", "message"),
    [
        ("", 60, "not an operator's name"),
        ("a/b", 60, "not an operator's name"),
        ("eve\n", 60, "not an operator's name"),
        ("..", 60, "not an operator's name"),
        ("eve", 0, "1 to"),
        ("eve", 40_000_000, "1 to"),
    ],
)
async def test_an_operator_that_makes_no_sense_is_refused(
    world: World, name: str, lifetime_s: int, message: str
) -> None:
    """By name or lifetime."""
    with pytest.raises(InvalidInput, match=message):
        await world.services.operators.create(
            name, Role.VIEWER, csr(), lifetime_s=lifetime_s, actor=ADMIN
        )
    assert len(await world.services.operators.list()) == 1


async def test_a_revoked_operator_is_not_let_in(world: World) -> None:
    """Its certificate is refused at once, another of the same operator is not."""
    operators = world.services.operators
    operator, chain = await operators.create("eve", Role.ADMIN, csr(), lifetime_s=60, actor=ADMIN)
    serial = certificate_from_der(chain[0]).serial_number
    await world.services.revocations.revoke_serial(serial, reason="keyCompromise", actor=ADMIN)
    with pytest.raises(NotAuthenticated, match="was revoked"):
        operators.authenticate(operator.spiffe_id, serial, issuer_name="")
    assert operators.authenticate(operator.spiffe_id, serial + 1, issuer_name="")


async def test_the_last_administrator_cannot_leave(world: World) -> None:
    """Nobody could create another."""
    with pytest.raises(Conflict, match="last administrator"):
        await world.services.operators.disable("admin", actor=ADMIN)
    with pytest.raises(NotFound):
        await world.services.operators.disable("nobody", actor=ADMIN)


# The inventory


async def test_the_inventory_refuses_nonsense(world: World) -> None:
    """An unknown state has its nearest word, a page its bounds."""
    with pytest.raises(InvalidInput, match="did you mean revoked"):
        await world.services.certificates.search(state="revokd")
    for limit in (0, 1001):
        with pytest.raises(InvalidInput, match="1 to 1000 rows"):
            await world.services.certificates.search(limit=limit)
        with pytest.raises(InvalidInput, match="1 to 1000 rows"):
            await world.services.audit.read(after=0, limit=limit)


# Events and readiness


def test_a_subscriber_that_fails_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """Others hear the event; one that left does not."""
    bus, heard, left = EventBus(), [], []  # type: ignore[var-annotated]

    def fail(event: object) -> None:
        raise RuntimeError("no")

    bus.subscribe(fail)
    leave = bus.subscribe(left.append)
    bus.subscribe(heard.append)
    leave()
    event = Issued(requester="a", profile="workload", serials=(1,), duration_s=0.1)
    bus.emit(event)
    assert (heard, left) == ([event], [])
    assert "a subscriber failed on Issued" in caplog.text


def test_events_are_logged_with_their_fields(caplog: pytest.LogCaptureFixture) -> None:
    """One record an event, serial numbers in hexadecimal, long lists cut."""
    caplog.set_level(logging.DEBUG, "legation.authority")
    log = EventLog()
    log(Issued(requester="a", profile="workload", serials=tuple(range(255, 300)), duration_s=1))
    log(Refused(caller="x", action="agent.enrol", code="not_authenticated", message="no"))
    first, second = (vars(record) for record in caplog.records)
    assert (first["msg"], first["count"], first["serials"][0]) == ("issued", 45, "ff")
    assert len(first["serials"]) == 16
    assert (second["msg"], second["detail"]) == ("refused", "no")
    assert [record.levelname for record in caplog.records] == ["DEBUG", "WARNING"]


async def test_readiness_tells_which_part_is_not(tmp_path: Path) -> None:
    """A running authority is ready; one that stopped says so."""
    async with running(settings_for(tmp_path)) as world:
        ready, parts = world.services.status.ready()
        assert ready
        assert set(parts.values()) == {"ok"}
        status = world.services.status
        assert status.status()["counts"]["agents"] == 0
    ready, parts = status.ready()
    assert (ready, parts["authority"]) == (False, "not running")


async def test_entries_reach_only_the_agents_they_concern(world: World) -> None:
    """The audience of an entry's event is its agents, old and new."""
    entries = world.services.entries
    two = str(agent_id("two"))
    await entries.create({"id": "e", **ENTRY}, actor=ADMIN)
    await entries.update("e", {"agents": [two]}, actor=ADMIN)
    await entries.delete("e", actor=ADMIN)
    store = world.authority.serving._store
    events = [
        committed.event
        for committed in await store.events_after(0, limit=100)  # type: ignore[attr-defined]
        if committed.event.kind is Kind.ENTRY
    ]
    one = ENTRY["agents"][0]
    assert [event.audience for event in events] == [(one,), (one, two), (two,)]
