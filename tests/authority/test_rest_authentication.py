"""Who may do what over REST: certificates, roles, and what happens on an open connection."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from legation.authority.model import Role
from legation.clock import FixedClock
from legation.pki import AGENT, CLIENT, SpiffeID, Subject, TrustDomain, Validity
from tests.support.fake_services import TRUST_DOMAIN, Hierarchy
from tests.support.rest_server import run, serving


async def curl(rest, path, *arguments, identity=None):
    """Ask with the real curl; return its exit status, the HTTP status and the body."""
    command = ["curl", "-sS", "--cacert", str(rest.roots), "-w", "\n%{http_code}", *arguments]
    if identity:
        command += ["--cert", str(identity)]
    code, out, err = await run(*command, f"https://localhost:{rest.port}{path}")
    body, _, status = out.decode().rpartition("\n")
    return code, int(status or 0), body or err.decode()


async def test_curl_with_an_operators_certificate_is_served(rest):
    """An operator's certificate opens the status page to plain curl."""
    identity = rest.enlist("alice", Role.VIEWER)
    code, status, body = await curl(rest, "/v1/status", identity=identity)
    assert (code, status) == (0, 200)
    assert '"trust_domain":"example.org"' in body


async def test_without_a_certificate_only_the_public_routes_answer(rest):
    """No certificate: the bundle and the OpenAPI document come, anything else is 401."""
    assert (await curl(rest, "/v1/bundle"))[1] == 200
    assert (await curl(rest, "/v1/openapi.json"))[1] == 200
    answer = await rest.connect(None).ask("GET", "/v1/status")
    assert (answer.status, answer.code) == (401, "not_authenticated")
    assert answer.json["detail"] == "the client presented no certificate"
    assert answer.json["remedy"]
    assert "www-authenticate" in answer.headers


async def test_a_certificate_of_another_authority_ends_in_the_handshake(rest):
    """A stranger's certificate is refused by TLS, and the cause is reported by its word."""
    stranger = Hierarchy()
    _, chain, key = stranger.operator("alice")
    identity = rest.identity_file("stranger", chain, key)
    code, status, body = await curl(rest, "/v1/status", identity=identity)
    assert code != 0
    assert status == 0
    assert "alert unknown ca" in body
    assert [cause for cause, _ in rest.refused] == ["unknown_authority"]


async def test_an_expired_certificate_ends_in_the_handshake(rest):
    """A certificate past its time is refused by TLS, and the cause is reported."""
    now = datetime.now(UTC)
    old = Validity(now - timedelta(hours=2), now - timedelta(hours=1))
    identity = rest.enlist("alice", Role.ADMIN, validity=old)
    code, status, body = await curl(rest, "/v1/status", identity=identity)
    assert code != 0
    assert status == 0
    assert "expired" in body
    assert [cause for cause, _ in rest.refused] == ["certificate_expired"]


async def test_a_certificate_that_expires_on_an_open_connection_is_refused(tmp_path):
    """The next request after notAfter is 401, though the handshake was in time."""
    clock = FixedClock(datetime.now(UTC))
    async with serving(tmp_path, clock=clock) as rest:
        connection = rest.connect_as("alice", Role.ADMIN)
        assert (await connection.ask("GET", "/v1/status")).status == 200
        clock.advance(2 * 3600)
        answer = await connection.ask("GET", "/v1/status")
        assert (answer.status, answer.code) == (401, "not_authenticated")
        assert "expired on this connection" in answer.json["detail"]


async def test_revoking_an_operator_ends_its_open_connection_and_no_other(rest):
    """The request after the revocation is 401 on the same connection; a colleague goes on."""
    alice = rest.connect_as("alice", Role.ADMIN)
    bob = rest.connect_as("bob", Role.ADMIN)
    assert (await alice.ask("GET", "/v1/status")).status == 200
    serial = format(rest.serials["alice"], "x")
    done = await bob.ask("POST", "/v1/revocations", {"serial": serial, "reason": "keyCompromise"})
    assert done.status == 200
    answer = await alice.ask("GET", "/v1/status")
    assert (answer.status, answer.code) == (401, "not_authenticated")
    assert "revoked" in answer.json["detail"]
    assert (await bob.ask("GET", "/v1/status")).status == 200


async def test_disabling_an_operator_ends_its_open_connection(rest):
    """A disabled operator is refused at once, also on a new connection."""
    alice = rest.connect_as("alice", Role.OPERATOR)
    admin = rest.connect_as("root", Role.ADMIN)
    assert (await alice.ask("GET", "/v1/status")).status == 200
    assert (await admin.ask("POST", "/v1/operators/alice/disable")).status == 204
    for connection in (alice, rest.connect(rest.directory / "alice.pem")):
        answer = await connection.ask("GET", "/v1/status")
        assert (answer.status, answer.code) == (401, "not_authenticated")


async def test_an_agents_certificate_is_no_operators(rest):
    """A certificate of this authority that is not an operator's passes TLS and is refused."""
    agent = SpiffeID(TRUST_DOMAIN, "/legation/agent/one")
    _, chain, key = rest.hierarchy.pair(AGENT, subject=Subject(spiffe_id=agent))
    answer = await rest.connect(rest.identity_file("agent", chain, key)).ask("GET", "/v1/status")
    assert (answer.status, answer.code) == (401, "not_authenticated")


async def test_an_operators_path_in_another_trust_domain_is_no_operator(rest):
    """The same path under another trust domain is refused, even when our issuer signed it."""
    foreign = SpiffeID(TrustDomain("other.example"), "/legation/operator/alice")
    rest.enlist("alice", Role.ADMIN)
    _, chain, key = rest.hierarchy.pair(CLIENT, subject=Subject(spiffe_id=foreign))
    answer = await rest.connect(rest.identity_file("foreign", chain, key)).ask("GET", "/v1/status")
    assert (answer.status, answer.code) == (401, "not_authenticated")


async def test_a_certificate_without_a_spiffe_id_is_refused(rest):
    """A certificate that only has a DNS name is nobody here."""
    _, chain, key = rest.hierarchy.pair(CLIENT, subject=Subject(dns_names=("alice.example",)))
    answer = await rest.connect(rest.identity_file("dns", chain, key)).ask("GET", "/v1/status")
    assert (answer.status, answer.code) == (401, "not_authenticated")
    assert "names no SPIFFE ID" in answer.json["detail"]


@pytest.mark.parametrize(
    ("role", "method", "path", "allowed"),
    [
        (Role.VIEWER, "GET", "/v1/entries", True),
        (Role.VIEWER, "DELETE", "/v1/entries/none", False),
        (Role.OPERATOR, "DELETE", "/v1/entries/none", True),
        (Role.OPERATOR, "POST", "/v1/operators/none/disable", False),
        (Role.ADMIN, "POST", "/v1/operators/none/disable", True),
        (Role.ADMIN, "DELETE", "/v1/entries/none", True),
    ],
)
async def test_each_role_includes_the_ones_before_it_and_no_more(rest, role, method, path, allowed):
    """Viewer reads, operator changes, admin administers; below that it is 403 with the need."""
    answer = await rest.connect_as("alice", role).ask(method, path)
    if allowed:
        assert answer.status in {200, 404}
    else:
        assert (answer.status, answer.code) == (403, "not_permitted")
        assert f"is {role}; this needs" in answer.json["detail"]


async def test_a_caller_is_refused_before_its_body_is_looked_at(rest):
    """A viewer's malformed body gets 403, not a lesson about the body."""
    connection = rest.connect_as("alice", Role.VIEWER)
    answer = await connection.ask("POST", "/v1/entries", raw=b"{")
    assert (answer.status, answer.code) == (403, "not_permitted")


async def test_tls_1_2_and_resumption_are_not_offered(rest):
    """s_client with TLS 1.2 is turned away; with 1.3 it gets no session ticket."""
    target = ["-connect", f"localhost:{rest.port}", "-CAfile", str(rest.roots)]
    code, _, err = await run("openssl", "s_client", "-tls1_2", *target)
    assert code != 0
    assert b"alert protocol version" in err
    identity = str(rest.enlist("alice", Role.ADMIN))
    request = b"GET /v1/status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    code, out, _ = await run(
        "openssl", "s_client", "-tls1_3", "-ign_eof", "-cert", identity, "-key", identity,
        "-cert_chain", identity, *target, stdin=request,
    )  # fmt: skip
    assert code == 0
    assert b"HTTP/1.1 200" in out
    assert b"Verify return code: 0 (ok)" in out
    assert b"New Session Ticket" not in out
    assert ("protocol_version", "UNSUPPORTED_PROTOCOL") in rest.refused


async def test_plain_http_on_the_tls_port_is_reported_as_plaintext(rest):
    """A client without TLS is cut off, and the cause is the word for it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", rest.port)
    writer.write(b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n")
    assert b"HTTP/1.1" not in await reader.read()
    writer.close()
    assert [cause for cause, _ in rest.refused] == ["plaintext"]


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"origin": "https://{host}"}, True),
        ({"sec-fetch-site": "same-origin"}, True),
        ({"origin": "https://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"origin": "http://{host}"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "same-site"}, False),
    ],
)
async def test_a_page_of_another_site_cannot_borrow_a_browsers_certificate(rest, headers, allowed):
    """A change that a browser makes for another origin is 403; reading is not concerned."""
    admin = rest.connect_as("root", Role.ADMIN)
    host = f"localhost:{rest.port}"
    sent = {name: value.replace("{host}", host) for name, value in headers.items()}
    answer = await admin.ask("POST", "/v1/operators/none/disable", headers=sent)
    assert answer.status == (404 if allowed else 403)
    assert (await admin.ask("GET", "/v1/status", headers=sent)).status == 200
