"""Revocation, and the lists that follow it, as OpenSSL sees them."""

import asyncio
import dataclasses
import itertools
import subprocess
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from legation.authority.events import CRLFailed, CRLPublished, Revoked
from legation.authority.revoking import crl_lists, crl_publisher
from legation.errors import Conflict, InvalidInput, NotFound, Unavailable
from legation.pki import (
    RevocationList,
    SerialNumber,
    SpiffeID,
    build_request,
    certificate_from_der,
    certificates_to_pem,
    generate_key,
)
from legation.wire.feed import Kind, PublishedCRL
from tests.support.authority import (
    ADMIN,
    Agent,
    World,
    certificate_of,
    running,
    settings_for,
    spiffe_id,
)
from tests.support.openssl import serial_line


async def issued(agent: Agent, *entries: Any) -> list[Any]:
    """Return a leaf for each entry."""
    async with agent.connected() as caller:
        results = await caller.issue(
            *((entry.id, build_request(generate_key())) for entry in entries)
        )
    return [certificate_of(result) for result in results]


async def published_after(world: World, count: int) -> list[CRLPublished]:
    """Wait until `count` lists were published."""
    async with asyncio.timeout(5):
        while len(world.heard(CRLPublished)) < count:
            await asyncio.sleep(0.005)
    return world.heard(CRLPublished)


def issuing_key_id(world: World) -> str:
    return next(
        row["key_id"] for row in world.services.status.status()["issuers"] if row["role"] != "root"
    )


async def test_a_revocation_is_in_force_before_it_returns(world: World) -> None:
    """Row, feed state and event are there; a list follows by itself."""
    agent = await world.enrol()
    (leaf,) = await issued(agent, await world.entry(agent))
    outcome = await world.services.revocations.revoke_serial(
        leaf.serial_number, reason="keyCompromise", actor=ADMIN
    )
    (row,) = await world.services.revocations.revocations(after=None, limit=9)
    assert (row.serial, row.spiffe_id, row.reason) == (
        leaf.serial_number,
        "spiffe://example.org/api",
        "keyCompromise",
    )
    assert outcome.revoked == (row,)
    record = await world.services.certificates.get(leaf.serial_number)
    assert record.reason == "keyCompromise"
    assert world.heard(Revoked)[-1].revision == outcome.revision
    assert world.heard(CRLPublished) == []  # revoking did not wait for it
    first = RevocationList.from_der(world.services.status.crl(issuing_key_id(world), 0))
    (event,) = await published_after(world, 1)
    assert event.number > first.number
    assert event.entries == 1


async def test_a_burst_of_revocations_makes_one_list(world: World) -> None:
    """Of the one issuer; the root's stays as it is."""
    agent = await world.enrol()
    entry = await world.entry(agent)
    leaves = await issued(agent, *[entry] * 20)
    await asyncio.gather(
        *(
            world.services.revocations.revoke_serial(
                leaf.serial_number, reason="superseded", actor=ADMIN
            )
            for leaf in leaves
        )
    )
    (event,) = await published_after(world, 1)
    await asyncio.sleep(0.15)
    assert len(world.heard(CRLPublished)) == 1
    assert (event.issuer, event.entries) == (issuing_key_id(world), 20)
    crl = RevocationList.from_der(world.services.status.crl(event.issuer, 0))
    assert set(crl.entries) == {leaf.serial_number for leaf in leaves}


async def test_openssl_obeys_the_lists(tmp_path: Path) -> None:
    """Sharded lists: the revoked is refused, the good accepted, a missing shard fails closed."""
    settings = settings_for(tmp_path, crl_shards=2, status_url="http://status.example")
    async with running(settings) as world:
        agent = await world.enrol()
        entry = await world.entry(agent)
        leaves = await issued(agent, *[entry] * 4)
        by_shard: dict[int, list[Any]] = {0: [], 1: []}
        for leaf in leaves:
            by_shard[SerialNumber.from_int(leaf.serial_number).shard].append(leaf)
        (bad, good), (other, _) = by_shard[0], by_shard[1]
        await world.services.revocations.revoke_serial(
            bad.serial_number, reason="affiliationChanged", actor=ADMIN
        )
        (event,) = await published_after(world, 1)
        assert event.shard == 0
        status = world.services.status
        issuing = issuing_key_id(world)
        (root,) = set(status.authority_certificates()) - {issuing}
        lists = [status.crl(root, 0), status.crl(issuing, 0), status.crl(issuing, 1)]
        chain = agent.chain[1:]
    text = _openssl(tmp_path, "crl", "-inform", "DER", "-noout", "-text", data=lists[1])
    assert "X509v3 Issuing Distribution Point: critical" in text
    assert f"URI:http://status.example/crl/{issuing}/0.crl" in text
    assert "Affiliation Changed" in text
    assert serial_line(bad.serial_number) in text
    verify = _Verifier(tmp_path, agent.roots, chain)
    assert verify(good, lists) == "OK"
    assert verify(other, lists) == "OK"
    assert "certificate revoked" in verify(bad, lists)
    assert "different CRL scope" in verify(other, lists[:2])


class _Verifier:
    """Asks OpenSSL, with revocation checked along the whole chain."""

    def __init__(self, directory: Path, roots: bytes, chain: Any) -> None:
        self._directory = directory
        (directory / "roots.pem").write_bytes(roots)
        rest = certificates_to_pem(certificate_from_der(der) for der in chain)
        (directory / "rest.pem").write_bytes(rest)

    def __call__(self, leaf: Any, lists: list[bytes]) -> str:
        (self._directory / "leaf.pem").write_bytes(certificates_to_pem([leaf]))
        pem = "".join(_openssl(self._directory, "crl", "-inform", "DER", data=der) for der in lists)
        (self._directory / "crls.pem").write_text(pem)
        done = subprocess.run(
            ["openssl", "verify", "-crl_check_all", "-extended_crl", "-CAfile", "roots.pem",
             "-untrusted", "rest.pem", "-CRLfile", "crls.pem", "leaf.pem"],
            cwd=self._directory, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return "OK" if done.returncode == 0 else done.stderr


def _openssl(directory: Path, *arguments: str, data: bytes) -> str:
    return subprocess.run(
        ["openssl", *arguments], cwd=directory, input=data, capture_output=True, check=True
    ).stdout.decode()


async def test_lists_are_renewed_long_before_they_run_out(tmp_path: Path) -> None:
    """Every issuer's, with a higher number, though nothing was revoked."""
    settings = settings_for(tmp_path, crl_validity_s=8, crl_refresh_s=1)
    async with running(settings) as world:
        events = await published_after(world, 4)
        assert {event.issuer for event in events} == set(
            world.services.status.authority_certificates()
        )
        numbers = [e.number for e in events if e.issuer == issuing_key_id(world)]
        assert numbers == sorted(set(numbers))
        for issuer in {event.issuer for event in events}:
            crl = RevocationList.from_der(world.services.status.crl(issuer, 0))
            assert crl.next_update - crl.this_update == timedelta(seconds=8)


async def test_a_list_travels_in_the_feed_while_it_is_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A larger one is named by its URL and fetched from there."""
    settings = settings_for(tmp_path, status_url="http://status.example")
    async with running(settings) as world:
        agent = await world.enrol()
        entry = await world.entry(agent)
        first, second = await issued(agent, entry, entry)
        key = f"{issuing_key_id(world)}/0"

        async def revoke(leaf: Any, count: int) -> PublishedCRL:
            await world.services.revocations.revoke_serial(
                leaf.serial_number, reason="superseded", actor=ADMIN
            )
            await published_after(world, count)
            crls: dict[str, PublishedCRL] = world.authority.serving._state.crls
            return crls[key]

        small = await revoke(first, 1)
        assert small.der == world.services.status.crl(small.issuer, 0)
        assert small.url == f"http://status.example/crl/{key}.crl"
        monkeypatch.setattr(crl_lists, "MAX_INLINE", 10)
        large = await revoke(second, 2)
        assert large.der is None
        assert large.number > small.number
        assert (
            second.serial_number
            in RevocationList.from_der(world.services.status.crl(large.issuer, 0)).entries
        )


async def test_a_list_that_cannot_be_stored_is_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failure is told, the revocation stands, and the list comes later."""
    monkeypatch.setattr(crl_publisher, "_RETRY_S", 0.05)
    store = world.authority.serving._store
    publish, failures = store.publish_crl, iter([True, False])  # type: ignore[attr-defined]

    async def flaky(*arguments: Any, **named: Any) -> Any:
        if next(failures):
            raise Unavailable("the disk is full")
        return await publish(*arguments, **named)

    monkeypatch.setattr(store, "publish_crl", flaky)
    agent = await world.enrol()
    (leaf,) = await issued(agent, await world.entry(agent))
    await world.services.revocations.revoke_serial(
        leaf.serial_number, reason="superseded", actor=ADMIN
    )
    (event,) = await published_after(world, 1)
    assert event.entries == 1
    assert [e.message for e in world.heard(CRLFailed)] == ["the disk is full"]


async def test_an_expired_certificate_leaves_the_list_one_validity_later(tmp_path: Path) -> None:
    """It stays on a list issued after its end, and then goes."""
    settings = settings_for(tmp_path, crl_validity_s=2, crl_refresh_s=1)
    async with running(settings) as world:
        agent = await world.enrol()
        (leaf,) = await issued(agent, await world.entry(agent, lifetime_s=2))
        await world.services.revocations.revoke_serial(
            leaf.serial_number, reason="superseded", actor=ADMIN
        )
        seen_after_its_end = False
        async with asyncio.timeout(15):
            while True:
                crl = RevocationList.from_der(world.services.status.crl(issuing_key_id(world), 0))
                late = crl.this_update > leaf.not_valid_after_utc
                listed = leaf.serial_number in crl.entries
                seen_after_its_end |= late and listed
                if late and not listed:
                    break
                await asyncio.sleep(0.1)
    assert seen_after_its_end


@pytest.mark.parametrize("reason", ["keycompromise", "key_compromise", "", "removeFromCRL"])
async def test_an_unknown_reason_is_refused(world: World, reason: str) -> None:
    """With the words that are known."""
    for work in (
        world.services.revocations.revoke_serial(1, reason=reason, actor=ADMIN),
        world.services.revocations.revoke_identity(
            spiffe_id("/api"), reason=reason, ban=True, actor=ADMIN
        ),
    ):
        with pytest.raises(InvalidInput, match="is not a reason for revocation") as caught:
            await work
        assert "did you mean" in str(caught.value) or "use one of" in str(caught.value)
    assert world.services.revocations.bans() == []


async def test_what_this_authority_cannot_revoke(world: World) -> None:
    """Foreign identities, itself for good, unknown and expired certificates, absent bans."""
    revocations = world.services.revocations
    foreign = SpiffeID.parse("spiffe://other.example/api")
    with pytest.raises(InvalidInput, match="not in the trust domain"):
        await revocations.revoke_identity(foreign, reason="unspecified", ban=True, actor=ADMIN)
    with pytest.raises(InvalidInput, match="cannot ban itself"):
        await revocations.revoke_identity(
            spiffe_id("/legation/authority"), reason="unspecified", ban=True, actor=ADMIN
        )
    with pytest.raises(NotFound):
        await revocations.revoke_serial(12345, reason="unspecified", actor=ADMIN)
    with pytest.raises(NotFound, match="is not banned"):
        await revocations.lift(spiffe_id("/api"), actor=ADMIN)
    agent = await world.enrol()
    (leaf,) = await issued(agent, await world.entry(agent, lifetime_s=2))
    await asyncio.sleep(max(0.0, leaf.not_valid_after_utc.timestamp() - time.time() + 0.05))
    with pytest.raises(Conflict, match="has expired already"):
        await revocations.revoke_serial(leaf.serial_number, reason="unspecified", actor=ADMIN)


async def test_a_banned_identity_is_not_issued_until_the_ban_is_lifted(world: World) -> None:
    """Its certificates are revoked, requests refused, and afterwards it gets new ones."""
    agent = await world.enrol()
    entry = await world.entry(agent)
    (leaf,) = await issued(agent, entry)
    revocations = world.services.revocations
    outcome = await revocations.revoke_identity(
        spiffe_id("/api"), reason="keyCompromise", ban=True, actor=ADMIN
    )
    assert [row.serial for row in outcome.revoked] == [leaf.serial_number]
    assert [ban.spiffe_id for ban in revocations.bans()] == ["spiffe://example.org/api"]
    async with agent.connected() as caller:
        (result,) = await caller.issue((entry.id, build_request(generate_key())))
        assert result.problem.code == "not_permitted"
        assert "is banned" in result.problem.message
        revision = await revocations.lift(spiffe_id("/api"), actor=ADMIN)
        assert revision > outcome.revision
        (result,) = await caller.issue((entry.id, build_request(generate_key())))
    fresh = certificate_of(result)
    rows = await world.services.certificates.search(spiffe_id="spiffe://example.org/api")
    states = {row.serial: row.revoked_at is None for row in rows}
    assert states == {leaf.serial_number: False, fresh.serial_number: True}


async def test_a_ban_that_comes_between_signing_and_recording_wins(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was signed already does not leave, and is not recorded."""
    agent = await world.enrol()
    entry = await world.entry(agent)
    store = world.authority.serving._store
    record = store.record_issuance

    async def slow(items: Any, *, requester: Any) -> Any:
        await world.services.revocations.revoke_identity(
            spiffe_id("/api"), reason="keyCompromise", ban=True, actor=ADMIN
        )
        return await record(items, requester=requester)

    monkeypatch.setattr(store, "record_issuance", slow)
    async with agent.connected() as caller:
        (result,) = await caller.issue((entry.id, build_request(generate_key())))
    assert result.problem.code == "not_permitted"
    assert await world.services.certificates.search(spiffe_id="spiffe://example.org/api") == []


async def test_a_revoked_serving_certificate_is_replaced_at_once(world: World) -> None:
    """The authority does not wait for a third of the lifetime when its own is revoked."""
    serial = world.authority.serving.credentials.serial
    renewed = asyncio.Event()
    world.authority.serving.subscribe(
        lambda credentials: renewed.set() if credentials.serial != serial else None
    )
    await world.services.revocations.revoke_serial(serial, reason="keyCompromise", actor=ADMIN)
    async with asyncio.timeout(5):
        await renewed.wait()
    record = await world.services.certificates.get(world.authority.serving.credentials.serial)
    assert (record.profile, record.revoked_at) == ("server", None)


async def test_the_serving_certificate_is_renewed_in_time(tmp_path: Path) -> None:
    """At a third of the lifetime remaining, with a new key, and servers are told."""
    async with running(settings_for(tmp_path, server_lifetime_s=2)) as world:
        heard: list[Any] = []
        three = asyncio.Event()

        def hear(credentials: Any) -> None:
            heard.append(credentials)
            if len(heard) == 3:
                three.set()

        world.authority.serving.subscribe(hear)
        async with asyncio.timeout(10):
            await three.wait()
        agent = await world.enrol()
        async with agent.connected() as caller:
            assert await caller.issue() == []
    assert len({credentials.key_pem for credentials in heard}) == 3
    assert all(
        later.not_before <= earlier.not_after for earlier, later in itertools.pairwise(heard)
    )
    assert "PRIVATE" not in repr(heard[0])


async def test_every_list_is_in_the_feed_from_the_beginning(tmp_path: Path) -> None:
    """Verifiers that check revocation have a list for every issuer and shard."""
    settings = settings_for(tmp_path, crl_shards=3, status_url="http://status.example")
    async with running(settings) as world:
        agent = await world.enrol()
        async with agent.connected() as caller:
            stream = await caller.sync()
            events = await stream.until(world.services.status.status()["revision"])
    keys = {event.key for event in events if event.kind is Kind.CRL}
    root, issuing = sorted(
        world.services.status.status()["issuers"], key=lambda row: row["role"] != "root"
    )
    assert keys == {f"{root['key_id']}/0", *(f"{issuing['key_id']}/{n}" for n in range(3))}


def test_settings_derive_the_refresh(tmp_path: Path) -> None:
    """An eighth of the validity, unless told otherwise."""
    settings = settings_for(tmp_path, crl_validity_s=3600)
    assert settings.refresh_s == 450
    assert dataclasses.replace(settings, crl_refresh_s=60).refresh_s == 60
