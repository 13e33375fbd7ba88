"""Revocations by agent, key, pattern and join token, over REST and the agents' interface."""

import asyncio
import contextlib
import dataclasses
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, get_args

import pytest
from cryptography import x509

from legation.authority.events import CRLPublished, Released, RevocationAsked
from legation.authority.revoking import batches as revocation_batches
from legation.authority.revoking import revocation
from legation.authority.revoking.scopes import (
    _WORDS,
    AgentScope,
    PatternScope,
    RequestState,
    Scope,
)
from legation.causes import Cause
from legation.errors import Unavailable
from legation.pki import RevocationList, build_request, generate_key, public_key_der
from legation.policy import SpiffeIDPattern
from legation.wire.feed import Kind
from tests.support.authority import (
    ADMIN,
    Agent,
    World,
    agent_id,
    certificate_of,
    running,
    settings_for,
    spiffe_id,
)
from tests.support.rest_server import Connection

API = "spiffe://example.org/api"
WEB = "spiffe://example.org/web"
POLICY = {
    "apiVersion": "legation/v1",
    "kind": "AuthorizationPolicy",
    "metadata": {"name": "readers"},
    "spec": {
        "target": {"spiffeIDs": [API]},
        "action": "ALLOW",
        "rules": [{"from": [{"spiffeIDs": [WEB]}]}],
    },
}


@pytest.fixture
async def admin(world: World) -> Connection:
    """A connection of the first administrator."""
    return world.connect(world.admin)


@contextlib.asynccontextmanager
async def strict(directory: Path, above: int = 1) -> AsyncIterator[World]:
    """Run an authority that asks for a second operator above so many certificates."""
    async with running(settings_for(directory, second_operator_above=above)) as world:
        yield world


async def issued(agent: Agent, entry: Any, key: Any = None) -> x509.Certificate:
    """Let an agent have a certificate."""
    async with agent.connected() as caller:
        (result,) = await caller.issue((entry.id, build_request(key or generate_key())))
    return certificate_of(result)


async def listed(world: World, count: int) -> RevocationList:
    """Wait until a revocation list with so many entries is out; return it."""
    issuer = next(
        row["key_id"]
        for row in world.services.status.status()["issuers"]
        if row["role"] == "issuing"
    )

    def newest() -> int | None:
        """Of this issuer: the root has a list as well."""
        found = [each.entries for each in world.heard(CRLPublished) if each.issuer == issuer]
        return found[-1] if found else None

    async with asyncio.timeout(5):
        while newest() != count:
            await asyncio.sleep(0.02)
    return RevocationList.from_der(world.services.status.crl(issuer, 0))


async def test_an_agent_and_all_behind_it_are_shut_out(world: World, admin: Connection) -> None:
    """Its stream ends, its join is refused, its certificates are listed; others go on."""
    one, two = await world.enrol("one"), await world.enrol("two")
    entry = await world.entry(one, two)
    mine, theirs = await issued(one, entry), await issued(two, entry)
    async with one.connected() as caller:
        stream = await caller.sync()
        answer = await admin.ask(
            "POST", "/v1/revocations", {"agent": str(one.spiffe_id), "reason": "keyCompromise"}
        )
        assert (answer.status, answer.json["count"]) == (200, 2), answer.body
        _, message = await stream.ended()
        assert "revoked" in message or "banned" in message
    assert answer.json["banned"] == str(one.spiffe_id)
    crl = await listed(world, 2)
    assert {one.serial, mine.serial_number} == set(crl.entries)
    assert theirs.serial_number not in crl.entries
    again = await admin.ask("POST", "/v1/tokens", {"agent": str(one.spiffe_id)})
    assert (again.status, again.code) == (409, "conflict")
    await issued(two, entry)
    lifted = await admin.ask("DELETE", f"/v1/bans/{one.spiffe_id}")
    assert lifted.status == 200
    await world.enrol("one")


async def test_a_dry_run_says_whom_it_would_hit_and_changes_nothing(
    world: World, admin: Connection
) -> None:
    """Counts, the newest, and the policies that name them, as callers and as those called."""
    one = await world.enrol("one")
    await issued(one, await world.entry(one))
    await issued(one, await world.entry(one, spiffe_id=WEB))
    assert (await admin.ask("PUT", "/v1/policies/readers", POLICY)).status == 200
    before = world.services.status.status()["revision"]
    answer = await admin.ask("POST", "/v1/revocations/preview", {"agent": str(one.spiffe_id)})
    assert answer.status == 200, answer.body
    found = answer.json
    assert (found["count"], found["second_operator"]) == (3, False)
    assert {row["spiffe_id"]: row["count"] for row in found["identities"]} == {
        str(one.spiffe_id): 1, API: 1, WEB: 1,
    }  # fmt: skip
    assert found["requesters"] == [{"spiffe_id": str(one.spiffe_id), "count": 3}]
    assert found["newest"][0]["spiffe_id"] == WEB
    assert found["policies"] == [{"name": "readers", "callers": [WEB], "targets": [API]}]
    assert world.services.status.status()["revision"] == before
    unknown = await admin.ask("POST", "/v1/revocations/preview", {"serial": "abc"})
    assert (unknown.status, unknown.code) == (404, "not_found")


async def test_a_leaked_key_is_never_certified_again(world: World, admin: Connection) -> None:
    """The request that shows it is refused with the cause, and nothing is recorded."""
    agent = await world.enrol()
    entry, key = await world.entry(agent), generate_key()
    leaf = await issued(agent, entry, key)
    fingerprint = hashlib.sha256(public_key_der(key.public_key())).hexdigest()
    answer = await admin.ask("POST", "/v1/revocations", {"key": fingerprint})
    assert [row["serial"] for row in answer.json["revoked"]] == [format(leaf.serial_number, "x")]
    assert answer.json["revoked"][0]["reason"] == "keyCompromise"
    async with agent.connected() as caller:
        bad, good = await caller.issue(
            (entry.id, build_request(key)), (entry.id, build_request(generate_key()))
        )
    assert bad.problem.code == "not_permitted"
    assert bad.problem.message.startswith(f"{Cause.KEY_BANNED}: ")
    assert not good.HasField("problem")
    rows = await world.services.certificates.search(spiffe_id=API)
    assert len(rows) == 2
    (banned,) = (await admin.ask("GET", "/v1/banned-keys")).json["items"]
    assert (banned["key"], banned["reason"]) == (fingerprint, "keyCompromise")


async def test_an_issuers_key_is_no_leafs(world: World, admin: Connection) -> None:
    """It is refused: replacing an issuer is something else."""
    certificates = world.services.status.authority_certificates().values()
    issuer = x509.load_der_x509_certificate(next(iter(certificates)))
    key = hashlib.sha256(public_key_der(issuer.public_key())).hexdigest()  # type: ignore[arg-type]
    answer = await admin.ask("POST", "/v1/revocations", {"key": key})
    assert (answer.status, answer.code) == (400, "invalid_input")
    assert "certificate authority" in answer.json["detail"]


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"agent": API}, "is not an agent's identity"),
        ({"pattern": "spiffe://other.example/*"}, "is not in the trust domain"),
        ({"pattern": "spiffe://example.org/a*"}, "pattern"),
        ({"pattern": f"{API}/*", "issued_before": "2999-01-01T00:00:00Z"}, "before they are"),
        ({"pattern": f"{API}/*", "issued_before": "2020-01-01T00:00:00"}, "timezone"),
        ({"key": "00" * 32, "reason": "certificateHold"}, "cannot be on hold"),
        ({"join_token": "t1", "reason": "certificateHold"}, "cannot be on hold"),
        ({"key": "00"}, "key"),
        ({"agent": f"{API}", "serial": "1"}, "unknown"),
        ({"serial": "1", "reason": "removeFromCRL"}, "reason"),
    ],
)
async def test_a_scope_that_is_none_is_refused(
    world: World, admin: Connection, body: dict[str, Any], detail: str
) -> None:
    """Before anything is recorded, and with what is wrong about it."""
    answer = await admin.ask("POST", "/v1/revocations", body)
    assert (answer.status, answer.code) == (400, "invalid_input")
    assert detail in answer.json["detail"]


async def test_a_large_revocation_waits_for_another_administrator(tmp_path: Path) -> None:
    """Asked for by one, agreed to by another; each step is in the audit log."""
    async with strict(tmp_path) as world:
        admin = world.connect(world.admin)
        other = world.connect(await world.enlist(admin, "bob", "admin"))
        operator = world.connect(await world.enlist(admin, "carol", "operator"))
        agent = await world.enrol()
        leaf = await issued(agent, await world.entry(agent))
        asked = await admin.ask("POST", "/v1/revocations", {"agent": str(agent.spiffe_id)})
        assert asked.status == 202
        request = asked.json["request"]
        assert (request["state"], request["count"], asked.json["revision"]) == ("pending", 2, None)
        assert (asked.json["count"], asked.json["revoked"]) == (0, [])
        path = f"/v1/revocation-requests/{request['id']}/approve"
        mine = await admin.ask("POST", path)
        assert (mine.status, mine.code) == (403, "not_permitted")
        assert "who has asked for a revocation cannot agree" in mine.json["detail"]
        assert (await operator.ask("POST", path)).status == 403
        assert world.heard(RevocationAsked)[-1].count == 2
        done = await other.ask("POST", path)
        assert (done.status, done.json["count"]) == (200, 2)
        assert leaf.serial_number in (await listed(world, 2)).entries
        again = await other.ask("POST", path)
        assert (again.status, again.json["revision"]) == (200, done.json["revision"])
        assert again.json["request"]["state"] == "done"
        (row,) = (await operator.ask("GET", "/v1/revocation-requests")).json["items"]
        assert row["decided_by"] == str(spiffe_id("/legation/operator/bob"))
        actions = [entry["action"] for entry in (await admin.ask("GET", "/v1/audit")).json["items"]]
        assert [a for a in actions if a.startswith("revocation")] == [
            "revocation.request",
            "revocation.approve",
        ]


async def test_a_request_is_turned_down_by_an_administrator_or_by_who_asked(
    tmp_path: Path,
) -> None:
    """Not by another operator; what is turned down cannot be agreed to."""
    async with strict(tmp_path, above=0) as world:
        admin = world.connect(world.admin)
        carol = world.connect(await world.enlist(admin, "carol", "operator"))
        dave = world.connect(await world.enlist(admin, "dave", "operator"))
        await world.enrol()

        async def ask(reason: str) -> str:
            body = {"agent": str(agent_id("one")), "reason": reason}
            answer = await carol.ask("POST", "/v1/revocations", body)
            return f"/v1/revocation-requests/{answer.json['request']['id']}"

        first, second = await ask("superseded"), await ask("keyCompromise")
        refused = await dave.ask("POST", f"{first}/reject")
        assert (refused.status, refused.code) == (403, "not_permitted")
        for who, path in ((carol, first), (admin, second)):
            answer = await who.ask("POST", f"{path}/reject")
            assert (answer.status, answer.json["state"]) == (200, "rejected")
        late = await admin.ask("POST", f"{first}/approve")
        assert (late.status, late.code) == (409, "conflict")


async def test_recalling_every_workload_needs_two_at_any_number(world: World) -> None:
    """Unless the configuration says that there is only one."""
    revocations = world.services.revocations
    scope = PatternScope(
        pattern=SpiffeIDPattern.parse("spiffe://example.org/*"), before=world.clock.now()
    )
    assert (await revocations.preview(scope, reason="unspecified")).second_operator
    one = dataclasses.replace(world.settings, second_operator_above=None)
    revocations._settings = one  # type: ignore[attr-defined]
    assert not (await revocations.preview(scope, reason="unspecified")).second_operator


async def test_what_is_on_hold_comes_back(world: World, admin: Connection) -> None:
    """The line leaves the list, the event tells every agent, and the same certificate is good."""
    agent = await world.enrol()
    entry = await world.entry(agent)
    leaf = await issued(agent, entry)
    body = {"spiffe_id": API, "ban": True, "reason": "certificateHold"}
    held = await admin.ask("POST", "/v1/revocations", body)
    assert held.json["count"] == 1
    assert (await listed(world, 1)).entries[leaf.serial_number].reason == "certificateHold"
    async with agent.connected() as caller:
        stream = await caller.sync()
        await stream.until(held.json["revision"])
        released = await admin.ask("POST", "/v1/revocations/release", {"spiffe_id": API})
        assert (released.status, released.json["count"]) == (200, 1), released.body
        assert released.json["banned"] == API
        events = await stream.until(released.json["revision"])
    gone = {(event.kind, event.key) for event in events if event.value is None}
    assert gone == {(Kind.BAN, API), (Kind.REVOCATION, format(leaf.serial_number, "x"))}
    assert (await listed(world, 0)).entries == {}
    shown = await admin.ask("GET", f"/v1/certificates/{leaf.serial_number:x}")
    assert (shown.json["state"], shown.json["reason"]) == ("valid", None)
    assert world.heard(Released)[-1].unbanned == API
    await issued(agent, entry)
    again = await admin.ask("POST", "/v1/revocations/release", {"spiffe_id": API})
    assert (again.status, again.json["count"]) == (200, 0)


async def test_what_is_revoked_for_good_is_not_released(world: World, admin: Connection) -> None:
    """By serial number that is a conflict that names the reason."""
    agent = await world.enrol()
    await admin.ask(
        "POST", "/v1/revocations", {"serial": format(agent.serial, "x"), "reason": "superseded"}
    )
    answer = await admin.ask(
        "POST", "/v1/revocations/release", {"serial": format(agent.serial, "x")}
    )
    assert (answer.status, answer.code) == (409, "conflict")
    assert "revoked for good: superseded" in answer.json["detail"]
    for nothing in ({"key": "00" * 32}, {}):
        answer = await admin.ask("POST", "/v1/revocations/release", nothing)
        assert (answer.status, answer.code) == (400, "invalid_input")


async def test_a_revocation_in_batches_survives_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fails between two batches, the authority ends, and the next one goes on."""
    monkeypatch.setattr(revocation, "BATCH", 2)
    monkeypatch.setattr(revocation_batches, "BATCH", 2)
    settings = settings_for(tmp_path)
    async with running(settings) as world:
        agent = await world.enrol()
        entry = await world.entry(agent)
        for _ in range(4):
            await issued(agent, entry)
        store = world.authority.serving._store

        async def broken(*_: Any, **__: Any) -> Any:
            raise Unavailable("the disk is full")

        monkeypatch.setattr(store, "go_on_revoking", broken)
        with pytest.raises(Unavailable, match="the disk is full"):
            await world.services.revocations.revoke(
                AgentScope(agent=agent.spiffe_id), reason="keyCompromise", actor=ADMIN
            )
        (request,) = await world.services.revocations.requests()
        assert (request.state, request.count) == (RequestState.RUNNING, 5)
    async with running(world.settings, new=False) as world:
        async with asyncio.timeout(5):
            while (await world.services.revocations.requests())[0].state is RequestState.RUNNING:
                await asyncio.sleep(0.02)
        rows = await world.services.certificates.search()
        mine = [row for row in rows if row.requester == str(agent.spiffe_id)]
        assert len(mine) == 5
        assert all(row.revoked_at for row in mine)


async def test_the_outcome_counts_every_batch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The revision is that of the last; a caller that goes away ends nothing."""
    monkeypatch.setattr(revocation, "BATCH", 1)
    monkeypatch.setattr(revocation_batches, "BATCH", 1)
    one, two = await world.enrol("one"), await world.enrol("two")
    entry = await world.entry(one, two)
    for agent in (one, one, two, two):
        await issued(agent, entry)

    def revoke(agent: Agent) -> Any:
        scope = AgentScope(agent=agent.spiffe_id)
        return world.services.revocations.revoke(scope, reason="keyCompromise", actor=ADMIN)

    outcome = await revoke(one)
    assert (outcome.count, len(outcome.revoked)) == (3, 1)
    assert outcome.revision == world.services.status.status()["revision"]
    begun = asyncio.create_task(revoke(two))
    async with asyncio.timeout(5):
        while len(world.services.revocations.bans()) < 2:
            await asyncio.sleep(0)
        begun.cancel()
        while any(r.state is RequestState.RUNNING for r in await revocations_of(world)):
            await asyncio.sleep(0.02)
    assert len(await world.services.certificates.search(state="revoked")) == 6


async def revocations_of(world: World) -> Any:
    """Return the recorded requests."""
    return await world.services.revocations.requests()


async def test_an_unknown_request_is_not_found(world: World, admin: Connection) -> None:
    """Whoever asks, and whatever for."""
    for word in ("approve", "reject"):
        answer = await admin.ask("POST", f"/v1/revocation-requests/{'0' * 16}/{word}")
        assert (answer.status, answer.code) == (404, "not_found")


def test_every_scope_has_a_word_of_its_own() -> None:
    """Logs and metrics can say what any revocation was about."""
    assert set(_WORDS) == set(get_args(Scope))
    assert len(set(_WORDS.values())) == len(_WORDS)
