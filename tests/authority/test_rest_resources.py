"""What each resource of the REST interface does, over real TLS, and how it says no."""

import asyncio
import base64
import contextlib
import json

import pytest
from cryptography import x509

from legation.authority.model import Role
from legation.errors import Conflict
from legation.pki import build_request, generate_key
from tests.support.policies import allow
from tests.support.rest_server import run

API = "spiffe://example.org/ns/prod/api"
AGENT = "spiffe://example.org/legation/agent/one"
ENTRY = {"spiffe_id": API, "selectors": ["unix:uid:1000"], "agents": [AGENT]}
POLICY = allow(API, "spiffe://example.org/web", name="api")


async def test_an_entry_is_created_shown_changed_and_deleted(admin):
    """The life of an entry, and 404 after it."""
    created = await admin.ask("POST", "/v1/entries", {**ENTRY, "id": "api-1"})
    assert created.status == 201
    assert created.json["lifetime_s"] is None
    changed = await admin.ask("PATCH", "/v1/entries/api-1", {"lifetime_s": 600, "owner": "team"})
    assert (changed.status, changed.json["lifetime_s"]) == (200, 600)
    assert changed.json["selectors"] == ENTRY["selectors"]
    assert (await admin.ask("GET", "/v1/entries/api-1")).json == changed.json
    cleared = await admin.ask("PATCH", "/v1/entries/api-1", {"lifetime_s": None})
    assert cleared.json["lifetime_s"] is None
    assert (await admin.ask("DELETE", "/v1/entries/api-1")).status == 204
    gone = await admin.ask("GET", "/v1/entries/api-1")
    assert (gone.status, gone.code) == (404, "not_found")


async def test_creating_the_same_entry_again_is_no_error_and_a_different_one_is(admin):
    """With an id of the caller's: same content 200, other content 409; without one, a new entry."""
    first = await admin.ask("POST", "/v1/entries", {**ENTRY, "id": "api-1"})
    again = await admin.ask("POST", "/v1/entries", {**ENTRY, "id": "api-1"})
    assert (first.status, again.status) == (201, 200)
    assert again.json == first.json
    other = await admin.ask("POST", "/v1/entries", {**ENTRY, "id": "api-1", "owner": "else"})
    assert (other.status, other.code) == (409, "conflict")
    assert (await admin.ask("POST", "/v1/entries", ENTRY)).status == 201
    assert len((await admin.ask("GET", "/v1/entries")).json["items"]) == 2


async def test_a_creation_that_loses_a_race_to_itself_is_no_error(rest, admin, monkeypatch):
    """A retry that meets its own first attempt half way gets 200; a stranger's entry stays 409."""
    entries = type(rest.authority.services().entries)
    original = entries.create

    async def create_behind_my_back(self, fields, *, actor):
        await original(self, fields, actor=actor)
        raise Conflict("it exists")

    monkeypatch.setattr(entries, "create", create_behind_my_back)
    assert (await admin.ask("POST", "/v1/entries", {**ENTRY, "id": "api-1"})).status == 200
    unnamed = await admin.ask("POST", "/v1/entries", ENTRY)
    assert (unnamed.status, unnamed.code) == (409, "conflict")


async def test_lists_come_in_pages_that_neither_repeat_nor_hide(admin):
    """Following `next` visits every row once; filters apply before pages."""
    for index in range(7):
        await admin.ask("POST", "/v1/entries", {**ENTRY, "id": f"e{index}"})
    await admin.ask("POST", "/v1/entries", {**ENTRY, "id": "x", "spiffe_id": f"{API}/x"})
    seen, after = [], ""
    while after is not None:
        query = f"?limit=3&spiffe_id={API}" + (f"&after={after}" if after else "")
        page = (await admin.ask("GET", f"/v1/entries{query}")).json
        seen += [entry["id"] for entry in page["items"]]
        after = page["next"]
    assert seen == [f"e{index}" for index in range(7)]
    for bad in ("limit=0", "limit=1001", "limit=x", "limit=1&limit=2", "lmit=3", "id=1"):
        answer = await admin.ask("GET", f"/v1/entries?{bad}")
        assert (answer.status, answer.code) == (400, "invalid_input"), bad
    assert "did you mean 'limit'?" in (await admin.ask("GET", "/v1/entries?lmit=3")).json["detail"]


async def test_a_wrong_body_is_refused_with_the_place_of_each_mistake(admin):
    """Every mistake is named with its path; an unknown member with the nearest name."""
    answer = await admin.ask(
        "POST", "/v1/entries", {**ENTRY, "selectors": ["bad"], "lifetime_s": 1, "dns_name": []}
    )
    assert (answer.status, answer.code) == (400, "invalid_input")
    detail = answer.json["detail"]
    assert "body selectors[0]: String should match pattern" in detail
    assert "body lifetime_s: Input should be greater than or equal to 2" in detail
    assert "body dns_name: unknown; did you mean 'dns_names'?" in detail
    empty = await admin.ask("PATCH", "/v1/entries/any", {})
    assert (empty.status, empty.json["detail"]) == (400, "body: names no field to change")
    for null in ("spiffe_id", "owner"):
        assert (await admin.ask("PATCH", "/v1/entries/any", {null: None})).status == 400


async def test_a_tokens_secret_is_shown_once(admin):
    """Creation shows the secret; the list never does; deletion removes the token."""
    created = await admin.ask("POST", "/v1/tokens", {"agent": AGENT, "lifetime_s": 60})
    assert (created.status, created.json["secret"]) == (201, "secret-of-t1")
    assert created.json["token"]["agent"] == AGENT
    listed = await admin.ask("GET", "/v1/tokens")
    assert b"secret" not in listed.body
    assert [token["id"] for token in listed.json["items"]] == ["t1"]
    assert (await admin.ask("DELETE", "/v1/tokens/t1")).status == 204
    assert (await admin.ask("DELETE", "/v1/tokens/t1")).code == "not_found"
    refused = await admin.ask("POST", "/v1/tokens", {"agent": "one"})
    assert (refused.status, refused.code) == (400, "invalid_input")


async def test_a_policy_is_put_shown_and_deleted(admin):
    """PUT is idempotent and tells whether it changed anything; names must agree."""
    first = await admin.ask("PUT", "/v1/policies/api", POLICY)
    again = await admin.ask("PUT", "/v1/policies/api", POLICY)
    assert (first.status, first.json["changed"], again.json["changed"]) == (200, True, False)
    assert (await admin.ask("GET", "/v1/policies/api")).json["metadata"]["name"] == "api"
    assert len((await admin.ask("GET", "/v1/policies")).json["items"]) == 1
    other = await admin.ask("PUT", "/v1/policies/web", POLICY)
    assert (other.status, other.code) == (400, "invalid_input")
    assert "metadata.name is not 'web'" in other.json["detail"]
    wrong = await admin.ask("PUT", "/v1/policies/api", {**POLICY, "spec": {"acton": "ALLOW"}})
    assert (wrong.status, wrong.code) == (400, "invalid_input")
    assert "spec.acton" in wrong.json["detail"]
    assert (await admin.ask("DELETE", "/v1/policies/api")).status == 204
    assert (await admin.ask("GET", "/v1/policies/api")).code == "not_found"


async def test_certificates_are_searched_in_pages_and_shown_with_their_pem(rest, admin):
    """The inventory pages by serial number; one certificate comes with its PEM."""
    from legation.pki import CLIENT, Subject

    leaf = rest.hierarchy.certify(
        CLIENT, generate_key().public_key(), subject=Subject(dns_names=("a.example",))
    )
    rest.authority.record(leaf.serial, API, leaf.der)
    rest.enlist("alice", Role.VIEWER)
    page = (await admin.ask("GET", "/v1/certificates?limit=2")).json
    rest_of_it = (await admin.ask("GET", f"/v1/certificates?limit=2&after={page['next']}")).json
    serials = [row["serial"] for row in page["items"] + rest_of_it["items"]]
    assert len(serials) == len(set(serials)) == 3
    shown = (await admin.ask("GET", f"/v1/certificates/{leaf.serial:X}")).json
    assert x509.load_pem_x509_certificate(shown["pem"].encode()).serial_number == leaf.serial
    assert shown["state"] == "valid"
    found = (await admin.ask("GET", f"/v1/certificates?spiffe_id={API}&state=valid")).json
    assert [row["serial"] for row in found["items"]] == [f"{leaf.serial:x}"]
    for bad in ("/v1/certificates/zz", "/v1/certificates?state=odd", "/v1/certificates?after=-1"):
        assert (await admin.ask("GET", bad)).code == "invalid_input"
    assert (await admin.ask("GET", "/v1/certificates/1")).code == "not_found"


async def test_an_identity_is_revoked_banned_and_let_in_again(rest, admin):
    """Revocation by identity with a ban, the lists, and the lifting of the ban."""
    serial = 2**127 + 5
    rest.authority.record(serial, API, b"")
    done = await admin.ask(
        "POST", "/v1/revocations", {"spiffe_id": API, "ban": True, "reason": "keyCompromise"}
    )
    assert (done.status, done.json["banned"]) == (200, API)
    assert [row["serial"] for row in done.json["revoked"]] == [f"{serial:x}"]
    listed = (await admin.ask("GET", "/v1/revocations")).json["items"]
    assert [(row["serial"], row["reason"]) for row in listed] == [(f"{serial:x}", "keyCompromise")]
    assert [ban["spiffe_id"] for ban in (await admin.ask("GET", "/v1/bans")).json["items"]] == [API]
    encoded = API.replace(":", "%3A").replace("/", "%2F")
    lifted = await admin.ask("DELETE", f"/v1/bans/{encoded}")
    assert lifted.json["revision"] == done.json["revision"] + 1
    assert (await admin.ask("DELETE", f"/v1/bans/{API}")).code == "not_found"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, "body spiffe_id: Field required"),
        ({"serial": "1", "spiffe_id": API}, "body serial.spiffe_id: unknown"),
        ({"serial": "1", "ban": True}, "body serial.ban: unknown"),
        ({"serial": "xyz"}, "body serial.serial: String should match pattern"),
        ({"serial": "1", "reason": "removeFromCRL"}, "body serial.reason: Input should be"),
        ({"spiffe_id": "spiffe://UPPER/x"}, "body spiffe_id.spiffe_id: String should match"),
        ([], "body spiffe_id: Input should be"),
    ],
)
async def test_a_revocation_names_one_thing_and_a_reason_that_exists(admin, body, expected):
    """Neither, both, or the reason of delta lists is refused in one line."""
    answer = await admin.ask("POST", "/v1/revocations", body)
    assert (answer.status, answer.code) == (400, "invalid_input")
    assert expected in answer.json["detail"] or "body spiffe_id.spiffe_id" in answer.json["detail"]


def csr(encoding="pem"):
    der = build_request(generate_key())
    text = base64.b64encode(der).decode()
    return text if encoding == "der" else (
        f"-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n"
    )  # fmt: skip


async def test_an_operator_is_created_and_renews_itself(rest, admin):
    """An admin certifies an operator's key from an openssl CSR; the operator renews with it."""
    key = rest.directory / "alice.key"
    code, text, _ = await run(
        "openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
        "-noenc", "-keyout", str(key), "-subj", "/CN=ignored",
    )  # fmt: skip
    assert code == 0
    created = await admin.ask(
        "POST", "/v1/operators", {"name": "alice", "role": "operator", "csr": text.decode()}
    )
    assert created.status == 201
    assert created.json["operator"]["role"] == "operator"
    identity = rest.identity_file("alice", created.json["chain_pem"].encode(), key.read_bytes())
    alice = rest.connect(identity)
    renewed = await alice.ask("POST", "/v1/operators/self/renew", {"csr": csr("der")})
    assert renewed.status == 201
    assert renewed.json["chain_pem"].count("BEGIN CERTIFICATE") == 2
    names = [row["name"] for row in (await alice.ask("GET", "/v1/operators")).json["items"]]
    assert names == ["alice", "root"]


@pytest.mark.parametrize(
    "text", ["", "not base64!", "AAAA", "-----BEGIN X-----\nAA\n-----END X-----"]
)
async def test_a_csr_that_is_none_is_refused(admin, text):
    """What is neither PEM nor DER of a request is 400, whatever it is."""
    answer = await admin.ask("POST", "/v1/operators", {"name": "a", "role": "viewer", "csr": text})
    assert (answer.status, answer.code) == (400, "invalid_input")


async def test_no_operator_can_be_named_as_the_renewal_path(admin):
    """The name self is taken."""
    answer = await admin.ask(
        "POST", "/v1/operators", {"name": "self", "role": "viewer", "csr": csr()}
    )
    assert (answer.status, answer.json["detail"]) == (400, "an operator cannot be named self")


async def test_an_agent_enrols_without_a_certificate(rest):
    """A join token is exchanged for chain, bundle, feed keys and port; a wrong one is 401."""
    stranger = rest.connect(None)
    enrolled = await stranger.ask("POST", "/v1/enrol", {"token": "good-token", "csr": csr()})
    assert enrolled.status == 201
    assert base64.b64decode(enrolled.json["feed_keys"][0]) == b"\x02" * 32
    assert enrolled.json["trust_domain"] == "example.org"
    assert enrolled.json["bundle"]["keys"]
    assert enrolled.headers["cache-control"] == "no-store"
    refused = await stranger.ask("POST", "/v1/enrol", {"token": "bad-token", "csr": csr()})
    assert (refused.status, refused.code) == (401, "not_authenticated")
    assert b"bad-token" not in refused.body


async def test_the_audit_log_is_read_from_where_the_last_reading_ended(admin):
    """`next` is the sequence number to go on after; null at the end."""
    for index in range(3):
        await admin.ask("POST", "/v1/entries", {**ENTRY, "id": f"e{index}"})
    first = (await admin.ask("GET", "/v1/audit?limit=2")).json
    assert [row["sequence"] for row in first["items"]] == [1, 2]
    second = (await admin.ask("GET", f"/v1/audit?limit=2&after={first['next']}")).json
    assert [row["subject"] for row in second["items"]] == ["e2"]
    assert second["next"] is None
    assert (await admin.ask("GET", "/v1/audit?after=-1")).code == "invalid_input"


async def test_agents_and_points_are_listed(rest, admin):
    """Each point shows the revision that it has in force."""
    rest.authority.put_point("p1", revision=4)
    (point,) = (await admin.ask("GET", "/v1/propagation")).json["items"]
    assert (point["id"], point["revision"], point["capabilities"]) == ("p1", 4, ["crl"])
    assert (point["standing"], point["lag"], point["left_at"]) == ("connected", 0, None)
    (agent,) = (await admin.ask("GET", "/v1/agents")).json["items"]
    assert agent["spiffe_id"] == AGENT


@contextlib.asynccontextmanager
async def watching(rest, revision, timeout_s, *, identity):
    """Start curl on the stream; give its lines as they come, and see it end well."""
    process = await asyncio.create_subprocess_exec(
        "curl", "-sSN", "--cacert", str(rest.roots), "--cert", str(identity),
        f"https://localhost:{rest.port}/v1/propagation/{revision}?timeout_s={timeout_s}",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip

    async def lines():
        while line := await asyncio.wait_for(process.stdout.readline(), 10):
            yield json.loads(line)

    try:
        yield lines()
        assert await asyncio.wait_for(process.communicate(), 10) == (b"", None)
        assert process.returncode == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_the_stream_names_each_point_as_it_reaches_the_revision(rest):
    """One line per point in the order of arrival, then a summary; the wait ends with the last."""
    identity = rest.enlist("alice", Role.VIEWER)
    rest.authority.put_point("p1", revision=7)
    rest.authority.put_point("p2", revision=6)
    rest.authority.put_point("gone", revision=3, connected=False)
    async with watching(rest, 7, 20, identity=identity) as lines:
        assert (await anext(lines))["point"]["id"] == "p1"
        rest.authority.put_point("p2", revision=8)
        assert (await anext(lines))["point"]["id"] == "p2"
        summary = (await anext(lines))["summary"]
    assert summary["complete"] is True
    assert summary["reached"] == 2
    assert [point["id"] for point in summary["disconnected"]] == ["gone"]
    assert summary["missing"] == []
    assert summary["elapsed_s"] < 10


async def test_the_stream_names_those_that_did_not_reach_it_in_time(rest):
    """After the time, the summary lists who is missing and is not complete."""
    identity = rest.enlist("alice", Role.VIEWER)
    rest.authority.put_point("p1", revision=7)
    rest.authority.put_point("late", revision=6)
    async with watching(rest, 7, 0.2, identity=identity) as lines:
        assert (await anext(lines))["point"]["id"] == "p1"
        summary = (await anext(lines))["summary"]
    assert summary["complete"] is False
    assert [point["id"] for point in summary["missing"]] == ["late"]


async def test_the_stream_ends_when_its_caller_is_revoked(rest):
    """A stream is no way to stay: revocation ends it with a problem line within a second."""
    identity = rest.enlist("alice", Role.VIEWER)
    rest.authority.put_point("late", revision=1)
    rest.authority.put_point("p1", revision=7)
    async with watching(rest, 7, 60, identity=identity) as lines:
        assert (await anext(lines))["point"]["id"] == "p1"
        rest.authority.revoked[rest.serials["alice"]] = None
        last = await asyncio.wait_for(anext(lines), 3)
    assert last["problem"]["code"] == "not_authenticated"


async def test_the_stream_ends_when_the_server_stops(rest):
    """Stopping does not wait for a watcher's minute."""
    identity = rest.enlist("alice", Role.VIEWER)
    rest.authority.put_point("late", revision=1)
    rest.authority.put_point("p1", revision=7)
    async with watching(rest, 7, 60, identity=identity) as lines:
        await anext(lines)
        stopping = asyncio.create_task(rest.server.stop())
        assert (await asyncio.wait_for(anext(lines), 3))["problem"]["code"] == "unavailable"
    await asyncio.wait_for(stopping, 3)


async def test_a_defect_in_the_middle_of_the_stream_is_its_last_line(rest, monkeypatch, caplog):
    """The status is long sent, so the incident is told in the stream and explained in the log."""
    identity = rest.enlist("alice", Role.VIEWER)

    def broken(self):
        raise ZeroDivisionError("s3cret")

    monkeypatch.setattr(type(rest.authority.services().propagation), "points", broken)
    async with watching(rest, 7, 1, identity=identity) as lines:
        line = await anext(lines)
    assert line["problem"]["code"] == "internal"
    assert f"incident {line['problem']['incident']}" in caplog.text
    assert "s3cret" not in str(line)


@pytest.mark.parametrize("query", ["-1", "x", "1?timeout_s=601", "1?timeout_s=nan", "1?timeout=1"])
async def test_a_wait_without_bounds_is_refused(admin, query):
    """Revision and time are bounded."""
    answer = await admin.ask("GET", f"/v1/propagation/{query}")
    assert (answer.status, answer.code) == (400, "invalid_input")
