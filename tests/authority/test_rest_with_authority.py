"""The HTTP edges over the real authority: store, keys, lists and all."""

import asyncio
import base64
import json

from legation.authority.agents.stated_points import StatedPoint
from legation.pki import (
    RevocationList,
    SpiffeID,
    build_request,
    certificates_from_pem,
    generate_key,
)
from tests.support.rest_server import run

API = "spiffe://example.org/ns/prod/api"
AGENT = "spiffe://example.org/legation/agent/one"
ENTRY = {"id": "api-1", "spiffe_id": API, "selectors": ["unix:uid:1000"], "agents": [AGENT]}

# A schema cannot say which trust domain is ours, nor what a request for a certificate is
# made of, so that what fits it may be refused; and a list that is too long for its field
# may be too long for a body as well.
CAMPAIGN = """
[checks]
positive_data_acceptance.enabled = false
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 409, 413, 415]
"""


def stated(revision):
    return StatedPoint(
        id="p1",
        kind="envoy",
        spiffe_id=API,
        revision=revision,
        applied_at=None,
        capabilities=(),
        notes=(),
    )


async def test_an_agent_enrols_and_is_revoked_with_curl_and_openssl_as_witnesses(world):
    """Token, enrolment, revocation, and the list that a stranger fetches and openssl believes."""
    admin = world.connect(world.admin)
    assert (await admin.ask("GET", "/v1/status")).json["trust_domain"] == "example.org"
    token = (await admin.ask("POST", "/v1/tokens", {"agent": AGENT})).json["secret"]
    csr = base64.b64encode(build_request(generate_key())).decode()
    stranger = world.connect(None)
    enrolled = await stranger.ask("POST", "/v1/enrol", {"token": token, "csr": csr})
    assert enrolled.status == 201
    again = await stranger.ask("POST", "/v1/enrol", {"token": token, "csr": csr})
    assert again.status in {401, 409}, again.body
    assert token.encode() not in again.body

    leaf, issuer = certificates_from_pem(enrolled.json["chain_pem"])
    serial = format(leaf.serial_number, "x")
    shown = (await admin.ask("GET", f"/v1/certificates/{serial}")).json
    assert (shown["state"], shown["spiffe_id"]) == ("valid", AGENT)
    done = await admin.ask("POST", "/v1/revocations", {"serial": serial})
    assert [row["serial"] for row in done.json["revoked"]] == [serial]
    assert (await admin.ask("GET", f"/v1/certificates/{serial}")).json["state"] == "revoked"
    actions = [row["action"] for row in (await admin.ask("GET", "/v1/audit")).json["items"]]
    assert actions[-1].startswith(("revocation", "certificate"))

    bundle = world.directory / "fetched.pem"
    base = f"http://127.0.0.1:{world.status.port}"
    code, _, _ = await run("curl", "-sSf", "-o", str(bundle), f"{base}/ca.pem")
    assert code == 0
    found = set(certificates_from_pem(bundle.read_bytes()))
    assert issuer in found
    crl = world.directory / "list.crl"
    key_id = next(
        row["key_id"]
        for row in (await admin.ask("GET", "/v1/status")).json["issuers"]
        if row["role"] == "issuing"
    )
    await world.authority.services.propagation.wait_for_change(timeout_s=0.01)
    code, _, _ = await run("curl", "-sSf", "-o", str(crl), f"{base}/crl/{key_id}/0.crl")
    assert code == 0
    code, out, err = await run(
        "openssl", "crl", "-inform", "DER", "-in", str(crl), "-CAfile", str(bundle), "-noout",
        "-text",
    )  # fmt: skip
    assert code == 0
    assert b"verify OK" in err
    assert RevocationList.from_der(crl.read_bytes()).number >= 1
    assert b"Certificate Revocation List" in out


async def test_an_operator_is_refused_at_once_when_it_is_revoked_or_disabled(world):
    """On its open connection, and on new ones; the administrator goes on."""
    admin = world.connect(world.admin)
    alice = await world.enlist(admin, "alice", "operator")
    bob = await world.enlist(admin, "bob", "viewer")
    as_alice, as_bob = world.connect(alice), world.connect(bob)
    assert (await as_alice.ask("POST", "/v1/entries", ENTRY)).status == 201
    assert (await as_alice.ask("POST", "/v1/entries", ENTRY)).status == 200
    assert (await as_bob.ask("GET", "/v1/entries/api-1")).json["spiffe_id"] == API
    refused = await as_bob.ask("DELETE", "/v1/entries/api-1")
    assert (refused.status, refused.code) == (403, "not_permitted")

    chain, _, _ = alice.read_bytes().partition(b"-----BEGIN PRIVATE")
    leaf, _ = certificates_from_pem(chain)
    serial = format(leaf.serial_number, "x")
    assert (await admin.ask("POST", "/v1/revocations", {"serial": serial})).status == 200
    assert (await admin.ask("POST", "/v1/operators/bob/disable")).status == 204
    for connection in (as_alice, as_bob, world.connect(alice), world.connect(bob)):
        answer = await connection.ask("GET", "/v1/status")
        assert (answer.status, answer.code) == (401, "not_authenticated")
    assert (await admin.ask("GET", "/v1/status")).status == 200


async def test_the_servers_own_certificate_is_renewed_under_open_connections(world):
    """Renewal reaches new handshakes and disturbs no open connection."""
    admin = world.connect(world.admin)
    assert (await admin.ask("GET", "/v1/status")).status == 200
    await world.authority.serving.renew()
    assert (await admin.ask("GET", "/v1/status")).status == 200
    code, out, _ = await run(
        "openssl", "s_client", "-connect", f"127.0.0.1:{world.api.port}", "-CAfile",
        str(world.roots), "-verify_return_error", "-verify_ip", "127.0.0.1",
    )  # fmt: skip
    assert code == 0
    assert b"Verify return code: 0 (ok)" in out


async def test_the_waiting_stream_ends_by_itself_where_no_point_is(world):
    """With no enforcement point at all, every revision is complete at once."""
    admin = world.connect(world.admin)
    answer = await admin.ask("GET", "/v1/propagation/1?timeout_s=5")
    (line,) = answer.body.splitlines()
    assert json.loads(line)["summary"]["complete"] is True


async def test_the_stream_tells_when_a_point_behind_an_agent_has_the_memo(world):
    """A revocation's revision is waited for, and the point that acknowledges it ends the wait."""
    admin = world.connect(world.admin)
    token = (await admin.ask("POST", "/v1/tokens", {"agent": AGENT})).json["secret"]
    csr = base64.b64encode(build_request(generate_key())).decode()
    assert (await admin.ask("POST", "/v1/enrol", {"token": token, "csr": csr})).status == 201
    board, agent = world.authority.services.propagation, SpiffeID.parse(AGENT)
    board.connected(agent, object(), version="0.1.0", revision=0)
    board.state(agent, revision=0, points=[stated(0)])
    done = await admin.ask("POST", "/v1/revocations", {"spiffe_id": API, "ban": True})
    revision = done.json["revision"]
    behind = await admin.ask("GET", f"/v1/propagation/{revision}?timeout_s=0")
    summary = json.loads(behind.body)["summary"]
    assert (summary["complete"], [point["id"] for point in summary["missing"]]) == (False, ["p1"])
    waiting = asyncio.create_task(
        world.connect(world.admin).ask("GET", f"/v1/propagation/{revision}?timeout_s=20")
    )
    board.state(agent, revision=revision, points=[stated(revision)])
    lines = [json.loads(line) for line in (await waiting).body.splitlines()]
    assert lines[0]["point"]["revision"] == revision
    assert lines[-1]["summary"]["complete"] is True


async def test_who_lost_its_agent_without_the_memo_is_named(world):
    """A point that left, and an agent that has not come back since the authority began anew."""
    admin = world.connect(world.admin)
    token = (await admin.ask("POST", "/v1/tokens", {"agent": AGENT})).json["secret"]
    csr = base64.b64encode(build_request(generate_key())).decode()
    assert (await admin.ask("POST", "/v1/enrol", {"token": token, "csr": csr})).status == 201
    board, agent = world.authority.services.propagation, SpiffeID.parse(AGENT)
    board.connected(agent, object(), version="0.1.0", revision=0)
    board.state(agent, revision=0, points=[stated(0)])
    revision = (await admin.ask("POST", "/v1/revocations", {"spiffe_id": API, "ban": True})).json[
        "revision"
    ]
    board.state(agent, revision=revision, points=[])  # the agent has begun anew
    answer = await admin.ask("GET", f"/v1/propagation/{revision}?timeout_s=0")
    summary = json.loads(answer.body)["summary"]
    assert (summary["complete"], [point["id"] for point in summary["left"]]) == (True, ["p1"])
    await world.stop()
    await world.start()
    answer = await world.connect(world.admin).ask("GET", f"/v1/propagation/{revision}?timeout_s=0")
    summary = json.loads(answer.body)["summary"]
    assert [point["agent"] for point in summary["disconnected"]] == [AGENT]


async def test_a_generated_campaign_finds_no_hole_between_document_and_server(world):
    """Schemathesis reads the document, drives the server as an administrator, and finds nothing."""
    config = world.directory / "schemathesis.toml"
    config.write_text(CAMPAIGN)
    code, out, err = await run(
        "schemathesis", "--config-file", str(config), "run",
        f"https://127.0.0.1:{world.api.port}/v1/openapi.json",
        "--tls-verify", str(world.roots), "--request-cert", str(world.admin),
        "--phases", "examples,coverage,fuzzing", "--max-time", "8", "--max-examples", "5",
        "--seed", "1", "--generation-database", "none", "--no-color", "--warnings", "off",
        # A stream that waits, by design, for as long as it is asked to; and what would
        # disable the caller itself.
        "--exclude-operation-id", "watchPropagation",
        "--exclude-operation-id", "disableOperator",
        cwd=world.directory,
    )  # fmt: skip
    assert code == 0, (out + err).decode()[:9000]
