"""Decoys and drills, over the REST interface of a real authority."""

from typing import Any

import pytest

from legation.authority.events import DrillFailed, DrillHeld, Issued
from legation.authority.model import Role
from legation.authority.store.sqlite import drills as rows
from legation.pki import (
    SpiffeID,
    build_request,
    certificate_from_der,
    certificates_from_pem,
    certificates_to_pem,
    generate_key,
    private_key_to_pem,
)
from legation.pki.pem import encode
from tests.support.authority import ADMIN, World

DECOY = "spiffe://example.org/legation/decoy/revoked"


def csr(**names: Any) -> str:
    return encode("CERTIFICATE REQUEST", build_request(generate_key(), **names)).decode()


def report(*outcomes: tuple[str, str, float | None]) -> dict[str, Any]:
    return {
        "at": "2030-01-01T00:00:00.123Z",
        "serial": "5f0c3a9be27d4410000000000000002a",
        "revision": 7,
        "timeout_s": 30.0,
        "rows": [
            {"target": "a:1", "spiffe_id": "spiffe://example.org/a", "kind": kind,
             "outcome": outcome, "after_ms": after_ms, "detail": "404"}
            for kind, outcome, after_ms in outcomes
        ],
    }  # fmt: skip


GOOD = report(("new_handshake", "refused", 4.5), ("expired_certificate", "refused", 900.0))
BAD = report(("new_handshake", "let_in", None), ("no_certificate", "refused", None))


async def test_a_decoy_is_certified_audited_and_revoked(world: World) -> None:
    """Its certificate is a workload's but for the name, and can be revoked by its number."""
    admin = world.connect(world.admin)
    body = {"name": "revoked", "csr": csr(), "lifetime_s": 60}
    answer = await admin.ask("POST", "/v1/decoys", body)
    assert (answer.status, answer.json["spiffe_id"]) == (201, DECOY)
    leaf = certificates_from_pem(answer.json["chain_pem"])[0]
    assert 60 <= (leaf.not_valid_after_utc - leaf.not_valid_before_utc).total_seconds() <= 70
    (issued,) = [event for event in world.heard(Issued) if event.profile == "decoy"]
    assert issued.serials == (leaf.serial_number,)
    (entry,) = [
        entry
        for entry in await world.services.audit.read(after=0, limit=100)
        if entry.detail.get("profile") == "decoy"
    ]
    assert (entry.action, entry.subject, entry.actor) == (
        "certificate.issue", DECOY, str(ADMIN.spiffe_id),
    )  # fmt: skip
    serial = {"serial": format(leaf.serial_number, "x")}
    revoked = await admin.ask("POST", "/v1/revocations", serial)
    assert [row["spiffe_id"] for row in revoked.json["revoked"]] == [DECOY]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"lifetime_s": 601}, "invalid_input"),
        ({"lifetime_s": 0}, "invalid_input"),
        ({"name": "../operator/admin"}, "invalid_input"),
        ({"name": ""}, "invalid_input"),
        ({"csr": csr(spiffe_id=SpiffeID.parse("spiffe://example.org/api"))}, "invalid_input"),
        ({"spiffe_id": "spiffe://example.org/api"}, "invalid_input"),
    ],
)
async def test_a_decoy_is_nothing_else(world: World, change: dict[str, Any], code: str) -> None:
    """No longer life, no other name, and nothing that a request asks for."""
    body = {"name": "revoked", "csr": csr(), **change}
    answer = await world.connect(world.admin).ask("POST", "/v1/decoys", body)
    assert (answer.status, answer.json["code"]) == (400, code)


async def test_a_banned_decoy_is_not_certified(world: World) -> None:
    """A ban holds for decoys as for anybody, and the remedy says what to do."""
    await world.services.revocations.revoke_identity(
        SpiffeID.parse(DECOY), reason="unspecified", ban=True, actor=ADMIN
    )
    body = {"name": "revoked", "csr": csr()}
    answer = await world.connect(world.admin).ask("POST", "/v1/decoys", body)
    assert (answer.status, answer.json["code"]) == (403, "not_permitted")
    assert "lift the ban" in answer.json["remedy"]


async def test_a_viewer_looks_and_holds_no_drill(world: World) -> None:
    """Decoys and reports take an operator; reading takes a viewer."""
    key = generate_key()
    _, chain = await world.services.operators.create(
        "eve", Role.VIEWER, build_request(key), lifetime_s=None, actor=ADMIN
    )
    path = world.directory / "eve.pem"
    path.write_bytes(
        certificates_to_pem(map(certificate_from_der, chain)) + private_key_to_pem(key)
    )
    eve = world.connect(path)
    for where, body in (("decoys", {"name": "x", "csr": csr()}), ("drills", GOOD)):
        assert (await eve.ask("POST", f"/v1/{where}", body)).status == 403
    assert (await eve.ask("GET", "/v1/drills")).json == {"items": [], "next": None}


async def test_a_report_is_kept_shown_and_told(world: World) -> None:
    """List, report, status and events say the same, also after a restart."""
    admin = world.connect(world.admin)
    assert (await admin.ask("GET", "/v1/status")).json["drill"] is None
    assert (await admin.ask("POST", "/v1/drills", GOOD)).json["findings"] == 0
    assert (await admin.ask("POST", "/v1/drills", BAD)).json["findings"] == 1
    listed = (await admin.ask("GET", "/v1/drills?limit=1")).json
    assert [row["id"] for row in listed["items"]] == [listed["next"]] == [2]
    older = (await admin.ask("GET", "/v1/drills?limit=1&after=2")).json
    brief = {
        "id": 1, "at": "2030-01-01T00:00:00.123Z", "by": str(ADMIN.spiffe_id),
        "targets": 1, "findings": 0, "slowest_ms": 4.5,
    }  # fmt: skip
    assert older == {"items": [brief], "next": None}
    assert (await admin.ask("GET", "/v1/drills/1")).json == {**brief, **GOOD}
    assert (await admin.ask("GET", "/v1/drills/3")).json["code"] == "not_found"
    (held,), (failed,) = world.heard(DrillHeld), world.heard(DrillFailed)
    assert (held.drill, held.slowest_ms) == (1, 4.5)
    assert failed.findings == ("a:1 new_handshake let_in",)
    await world.stop()
    await world.start()
    told = (await world.connect(world.admin).ask("GET", "/v1/status")).json["drill"]
    assert (told["id"], told["findings"], told["slowest_ms"]) == (2, 1, None)


@pytest.mark.parametrize(
    "change",
    [
        {"rows": []},
        {"at": "2030-01-01T00:00:00"},
        {"serial": "x"},
        {"timeout_s": 0},
        {"rows": [{**GOOD["rows"][0], "kind": "guess"}]},
        {"rows": [{**GOOD["rows"][0], "outcome": "fine"}]},
        {"rows": [{**GOOD["rows"][0], "after_ms": -1}]},
        {"rows": [{**GOOD["rows"][0], "detail": "x" * 513}]},
    ],
)
async def test_what_is_no_report_is_not_kept(world: World, change: dict[str, Any]) -> None:
    """Each field has its bounds."""
    admin = world.connect(world.admin)
    answer = await admin.ask("POST", "/v1/drills", {**GOOD, **change})
    assert (answer.status, answer.json["code"]) == (400, "invalid_input")
    assert (await admin.ask("GET", "/v1/drills")).json["items"] == []


async def test_old_drills_make_room(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest stay; numbers are not used again."""
    monkeypatch.setattr(rows, "KEPT", 2)
    admin = world.connect(world.admin)
    for _ in range(4):
        await admin.ask("POST", "/v1/drills", GOOD)
    kept = (await admin.ask("GET", "/v1/drills")).json["items"]
    assert [row["id"] for row in kept] == [4, 3]
