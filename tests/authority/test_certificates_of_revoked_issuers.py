"""The inventory and the OCSP responder about what a revoked issuer has signed."""

import sqlite3
from contextlib import closing

import pytest

from legation.authority.model import IssuedRecord
from legation.errors import NotFound
from legation.pki.ocsp import CertificateID
from tests.support.authority import ADMIN, World
from tests.support.issuers import (
    following,
    in_step,
    issuers,
    renewed,
    replace,
    revoke,
    signing,
    until_state,
)
from tests.support.ocsp import certified


async def serials(world: World, state: str) -> set[int]:
    """Return the serial numbers of the certificates in a state."""
    found = await world.services.certificates.search(state=state, limit=1000)
    return {record.serial for record in found}


async def superseded(world: World) -> tuple[IssuedRecord, str]:
    """Replace and remove an issuer; return a certificate that it has signed, and its key id."""
    agent = await world.enrol()
    record = await world.services.certificates.get(agent.serial)
    old = await signing(world)
    await until_state(world, (await replace(world, now=True)).key_id, "active")
    await renewed(world, agent)
    assert record.serial in await serials(world, "valid")
    await world.services.issuers.remove(old, actor=ADMIN)
    return record, old


async def test_they_are_revoked_with_it(world: World) -> None:
    """State, cause and filters follow the issuer; no row of theirs is touched."""
    before, _ = await superseded(world)
    record = await world.services.certificates.get(before.serial)
    assert record.is_revoked
    assert (record.revoked_at, record.issuer_reason) == (None, "superseded")
    revoked, valid = await serials(world, "revoked"), await serials(world, "valid")
    assert record.serial in revoked
    assert not revoked & valid
    assert valid
    with closing(sqlite3.connect(world.settings.database)) as connection, connection:
        rows = connection.execute("SELECT serial FROM certificates WHERE revoked_at_ms NOT NULL")
        (listed,) = [int.from_bytes(serial, "big") for (serial,) in rows]
    # The issuer's own, which is on the root's list.
    assert listed in revoked
    assert (await world.services.certificates.get(listed)).reason == "superseded"


async def test_the_operator_is_told_what_they_were_revoked_with(world: World) -> None:
    """Over REST: the issuer's reason and time, and that they are the issuer's."""
    admin = world.connect(world.admin)
    path = "/v1/certificates"
    agent = await world.enrol()
    shown = (await admin.ask("GET", f"{path}/{agent.serial:x}")).json
    assert (shown["state"], shown["revoked_with"]) == ("valid", None)
    alone = await world.enrol("two")
    await world.services.revocations.revoke_serial(
        alone.serial, reason="keyCompromise", actor=ADMIN
    )
    old = await signing(world)
    await until_state(world, (await replace(world, now=True)).key_id, "active")
    reader = world.connect(await world.enlist(admin, "bob", "viewer"))
    serial = agent.serial
    await renewed(world, agent)
    gone = await world.services.issuers.remove(old, actor=ADMIN)

    shown = (await reader.ask("GET", f"{path}/{serial:x}")).json
    told = {name: shown[name] for name in ("state", "reason", "revoked_with")}
    assert told == {"state": "revoked", "reason": "superseded", "revoked_with": "issuer"}
    assert shown["revoked_at"][:19] == gone.since.isoformat()[:19]
    # What was revoked by itself keeps its own reason.
    shown = (await reader.ask("GET", f"{path}/{alone.serial:x}")).json
    told = {name: shown[name] for name in ("state", "reason", "revoked_with")}
    assert told == {"state": "revoked", "reason": "keyCompromise", "revoked_with": "certificate"}
    listed = (await reader.ask("GET", f"{path}?state=revoked")).json["items"]
    assert {row["state"] for row in listed} == {"revoked"}
    assert {f"{serial:x}", f"{alone.serial:x}"} <= {row["serial"] for row in listed}
    listed = (await reader.ask("GET", f"{path}?state=valid")).json["items"]
    assert {row["issuer"] for row in listed} == {await signing(world)}


async def test_what_had_expired_before_was_not_revoked_with_it(world: World) -> None:
    """It was refused for its age by then."""
    before, _ = await superseded(world)
    with closing(sqlite3.connect(world.settings.database)) as connection, connection:
        connection.execute(
            "UPDATE certificates SET not_after_ms = not_before_ms + 1 WHERE serial = ?",
            (before.serial.to_bytes(16, "big"),),
        )
    record = await world.services.certificates.get(before.serial)
    assert not record.is_revoked
    assert record.serial not in await serials(world, "revoked")
    assert record.serial in await serials(world, "expired")


async def test_those_of_a_tainted_issuer_are_valid_until_it_goes(world: World) -> None:
    """Verifiers take them until the issuer is on its root's list, and the inventory says so."""
    agent = await world.enrol()
    old = await signing(world)
    async with following(agent) as follower:
        await follower.acknowledge(0)
        await revoke(world, old)
        assert (await issuers(world))["tainted"].key_id == old
        assert agent.serial in await serials(world, "valid")
    async with in_step(agent):
        await revoke(world, old, at_once=True)
        await until_state(world, old, "removed")
    record = await world.services.certificates.get(agent.serial)
    assert (record.is_revoked, record.issuer_reason) == (True, "cACompromise")


async def test_nobody_speaks_for_a_removed_issuer(world: World) -> None:
    """Its key is gone: openssl hears "unauthorized" where it heard "good", never "good" again; the
    root's responder says that the issuer is revoked.
    """
    asker = await certified(world)
    assert "leaf.pem: good" in (await asker.openssl("-no_nonce"))[1]
    old = await signing(world)
    async with in_step(asker.agent):
        await revoke(world, old, at_once=True)
        await until_state(world, old, "removed")
    for options in (["-no_nonce"], []):
        assert "unauthorized (6)" in (await asker.openssl(*options))[1]
    ocsp = world.authority.ocsp
    assert ocsp is not None
    with pytest.raises(NotFound, match="was removed"):
        ocsp._responders.name_of(old, hash_name="sha1", serial=asker.serial)
    about = CertificateID.of(world.root, asker.issuer.serial_number, hash_name="sha1")
    held = await ocsp.response(str(ocsp._responders.issuer_of(about)), about)
    assert held is not None
    assert held.known.reason == "cACompromise"
    asker.connection.close()
