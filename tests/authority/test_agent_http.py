"""What agents ask over HTTPS, over real TLS."""

import asyncio
import dataclasses
import ssl
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from legation.authority.agents import http as agent_http
from legation.authority.agents import peer as agent_peer
from legation.authority.events import Issued
from legation.authority.http import requests
from legation.authority.store import AuditDraft
from legation.causes import Cause
from legation.errors import InvalidInput
from legation.pki import (
    KeyAlgorithm,
    build_request,
    certificate_from_der,
    certificates_to_pem,
    generate_key,
)
from legation.wire.agent_calls import ISSUE_PATH, MEDIA_TYPE, RENEW_PATH
from tests.support.authority import (
    ADMIN,
    Agent,
    Caller,
    Refused,
    World,
    agent_id,
    certificate_of,
    running,
    settings_for,
    spiffe_id,
)
from tests.support.rest_server import Connection


def csr() -> bytes:
    return build_request(generate_key())


async def refused(work: object) -> Refused:
    """Return the problem that a call must be answered with."""
    with pytest.raises(Refused) as caught:
        await work  # type: ignore[misc]
    return caught.value


# Issue


async def test_an_agent_gets_certificates_for_its_entries(world: World) -> None:
    """A chain that OpenSSL accepts, for the entry's names and the requested key, on record."""
    agent = await world.enrol()
    entry = await world.entry(agent, dns_names=["api.example"], lifetime_s=600)
    key = generate_key()
    async with agent.connected() as caller:
        (result,) = await caller.issue((entry.id, build_request(key)))
    leaf = certificate_of(result)
    assert leaf.public_key() == key.public_key()
    record = await world.services.certificates.get(leaf.serial_number)
    assert record.der == result.certificate.certificates[0]
    assert (record.spiffe_id, record.requester, record.entry_id, record.profile) == (
        entry.spiffe_id,
        str(agent.spiffe_id),
        entry.id,
        "workload",
    )
    lifetime = (leaf.not_valid_after_utc - leaf.not_valid_before_utc).total_seconds()
    assert 600 <= lifetime <= 662
    assert world.heard(Issued)[-1].serials == (leaf.serial_number,)
    _openssl_accepts(world.settings.data_dir, agent.roots, result.certificate.certificates)


async def test_an_entry_can_have_a_common_name(world: World) -> None:
    """For servers that read nothing else: it is the certificate's subject, beside the SPIFFE ID."""
    agent = await world.enrol()
    named = await world.entry(agent, common_name="orders app")
    plain = await world.entry(agent, spiffe_id="spiffe://example.org/web")
    async with agent.connected() as caller:
        first, second = await caller.issue((named.id, csr()), (plain.id, csr()))
    assert certificate_of(first).subject.rfc4514_string() == "CN=orders app"
    assert certificate_of(second).subject.rfc4514_string() == ""


@pytest.mark.parametrize("name", [" a", "a ", "a\nb", "é", "a" * 65])
async def test_a_common_name_is_short_and_printable(world: World, name: str) -> None:
    """Anything else is refused when the entry is made."""
    with pytest.raises(InvalidInput, match="common_name"):
        await world.entry(await world.enrol(), common_name=name)


def _openssl_accepts(directory: Path, roots: bytes, chain: list[bytes]) -> None:
    leaf, *rest = map(certificate_from_der, chain)
    (directory / "roots.pem").write_bytes(roots)
    (directory / "rest.pem").write_bytes(certificates_to_pem(rest))
    (directory / "leaf.pem").write_bytes(certificates_to_pem([leaf]))
    checked = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-verify_hostname", "api.example",
         "-purpose", "sslserver", "-CAfile", "roots.pem", "-untrusted", "rest.pem", "leaf.pem"],
        cwd=directory, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.stdout == "leaf.pem: OK\n", checked.stderr


async def test_one_item_failing_fails_no_other(world: World) -> None:
    """Results stand at their items' places, each a chain or its own problem."""
    agent, other = await world.enrol("one"), await world.enrol("two")
    mine = await world.entry(agent, id="mine")
    banned = await world.entry(agent, id="banned", spiffe_id="spiffe://example.org/banned")
    await world.entry(other, id="foreign")
    await world.services.revocations.revoke_identity(
        spiffe_id("/banned"), reason="unspecified", ban=True, actor=ADMIN
    )
    altered = bytearray(csr())
    altered[-1] ^= 1
    async with agent.connected() as caller:
        results = await caller.issue(
            (mine.id, csr()),
            ("foreign", csr()),
            ("nowhere", csr()),
            (banned.id, csr()),
            (mine.id, bytes(altered)),
            (mine.id, b"not a request"),
            (mine.id, bytes(20_000)),
            (mine.id, build_request(generate_key(), spiffe_id=spiffe_id("/other"))),
            (mine.id, build_request(generate_key(KeyAlgorithm.P384))),
            (mine.id, csr()),
        )
    codes = [result.problem.code for result in results]
    assert codes == [
        "",
        "not_found",
        "not_found",
        "not_permitted",
        "invalid_input",
        "invalid_input",
        "limit_exceeded",
        "invalid_input",
        "invalid_input",
        "",
    ]
    # A foreign entry and none at all cannot be told apart.
    foreign, nowhere = (results[n].problem.message for n in (1, 2))
    assert foreign.replace("foreign", "nowhere") == nowhere
    assert "not signed by the key it names" in results[4].problem.message
    assert "asks for spiffe://example.org/other" in results[7].problem.message
    assert "the entry wants ec-p256" in results[8].problem.message
    assert results[3].problem.remedy


async def test_a_lifetime_is_cut_to_the_maximum(tmp_path: Path) -> None:
    """Also that of an entry which was made when more was allowed."""
    settings = settings_for(tmp_path)
    async with running(settings) as world:
        agent = await world.enrol()
        entry = await world.entry(agent, lifetime_s=7200)
    settings = dataclasses.replace(settings, max_lifetime_s=60, workload_lifetime_s=60)
    async with running(settings, new=False) as world:
        agent.port = world.api.port
        async with agent.connected() as caller:
            (result,) = await caller.issue((entry.id, csr()))
    leaf = certificate_of(result)
    assert (leaf.not_valid_after_utc - leaf.not_valid_before_utc).total_seconds() <= 68


@pytest.mark.parametrize(
    "algorithm", [KeyAlgorithm.ED25519, KeyAlgorithm.RSA_3072, KeyAlgorithm.ML_DSA_65]
)
async def test_an_entry_chooses_the_kind_of_key(world: World, algorithm: KeyAlgorithm) -> None:
    """Whatever kind it chooses is certified."""
    agent = await world.enrol()
    entry = await world.entry(agent, key_algorithm=str(algorithm))
    key = generate_key(algorithm)
    async with agent.connected() as caller:
        (result,) = await caller.issue((entry.id, build_request(key)))
    assert certificate_of(result).public_key() == key.public_key()


async def test_a_weak_key_is_refused(world: World) -> None:
    """An RSA key of 2048 bits is not certified."""
    agent = await world.enrol()
    entry = await world.entry(agent)
    key = rsa.generate_private_key(65537, 2048)
    request = x509.CertificateSigningRequestBuilder(x509.Name([])).sign(key, hashes.SHA256())
    async with agent.connected() as caller:
        (result,) = await caller.issue((entry.id, request.public_bytes(Encoding.DER)))
    assert result.problem.code == "invalid_input"
    assert "RSA key of 2048 bits is not accepted" in result.problem.message


async def test_the_authoritys_own_key_is_never_certified(world: World) -> None:
    """Whoever gets hold of a CA key shall not get a leaf for it as well."""
    agent = await world.enrol()
    entry = await world.entry(agent)
    certifier = world.authority.serving._certifier
    async with agent.connected() as caller:
        (result,) = await caller.issue((entry.id, build_request(certifier.issuer.private_key)))
    assert result.problem.code == "not_permitted"


async def test_a_batch_of_five_hundred_is_issued(world: World) -> None:
    """With serial numbers of their own, all recorded, while others are served."""
    agent = await world.enrol()
    entry = await world.entry(agent)
    requests = [csr() for _ in range(50)] * 10
    async with agent.connected() as caller:
        batch = asyncio.ensure_future(caller.issue(*((entry.id, request) for request in requests)))
        single = await caller.issue((entry.id, csr()))
        assert not batch.done()
        results = await batch
    serials = {certificate_of(result).serial_number for result in (*results, *single)}
    assert len(serials) == 501
    for serial in list(serials)[:20]:
        assert (await world.services.certificates.get(serial)).serial == serial


async def test_a_batch_beyond_the_limit_is_refused(world: World) -> None:
    """As a whole, with the limit in the message."""
    agent = await world.enrol()
    async with agent.connected() as caller:
        problem = await refused(caller.issue(*[("e", b"")] * 501))
    assert (problem.status, problem.code) == (413, "limit_exceeded")
    assert "at most 500 are accepted" in problem.message
    assert problem.remedy == "split the request"


@pytest.mark.parametrize("announced", [True, False])
async def test_an_oversized_body_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch, announced: bool
) -> None:
    """What no valid request can be is not read to its end, whether its length is known or not."""
    monkeypatch.setattr(agent_http, "MAX_REQUEST_BYTES", 100_000)
    agent = await world.enrol()
    body = bytes(100_001)
    async with agent.connected() as caller:
        sent = body if announced else iter([body[:50_000], body[50_000:]])
        answer = await caller.post(ISSUE_PATH, sent)
        assert (answer.status, answer.code) == (413, "limit_exceeded")
        assert "at most 100000 bytes" in answer.json["detail"]


async def test_a_body_in_pieces_is_read(world: World) -> None:
    """A chunked body that ends in time and is short enough is a body."""
    agent = await world.enrol()
    async with agent.connected() as caller:
        answer = await caller.post(ISSUE_PATH, iter([b"\x0a\x00", b"\x0a\x00"]))
    assert answer.status == 200
    assert answer.body.count(b"not_found") == 2


async def test_a_body_that_does_not_come_is_given_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that announces a body and stays silent is told so, and let go."""
    monkeypatch.setattr(requests, "BODY_S", 0.05)
    agent = await world.enrol()
    reader, writer = await asyncio.open_connection("localhost", world.api.port, ssl=agent.context())
    writer.write(
        f"POST {ISSUE_PATH} HTTP/1.1\r\nhost: x\r\ncontent-type: {MEDIA_TYPE}\r\n"
        "content-length: 9\r\n\r\n".encode()
    )
    assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
    writer.close()


async def test_a_malformed_message_is_refused(world: World) -> None:
    """Bytes that are no protobuf end the request, not the connection."""
    agent = await world.enrol()
    async with agent.connected() as caller:
        for path, name in ((ISSUE_PATH, "IssueRequest"), (RENEW_PATH, "RenewAgentRequest")):
            answer = await caller.post(path, b"\xff\xff\xff")
            assert (answer.status, answer.code) == (400, "invalid_input")
            assert answer.json["detail"] == f"these bytes are not of the type {name}"
        assert await caller.issue() == []
        assert len(caller.idle) == 1


@pytest.mark.parametrize(
    ("path", "method", "media_type", "status"),
    [
        (ISSUE_PATH, "GET", MEDIA_TYPE, 405),
        (RENEW_PATH, "PUT", MEDIA_TYPE, 405),
        (ISSUE_PATH, "POST", "application/json", 415),
        (ISSUE_PATH, "POST", "", 415),
        (f"{ISSUE_PATH}/", "POST", MEDIA_TYPE, 404),
        ("/agent/v1/", "POST", MEDIA_TYPE, 404),
    ],
)
async def test_what_http_finds_wrong_has_its_own_status(
    world: World, path: str, method: str, media_type: str, status: int
) -> None:
    """Another path, method or media type is named; the right ones beside them are served."""
    agent = await world.enrol()
    async with agent.connected() as caller:
        answer = await caller.post(path, b"", method=method, media_type=media_type)
        assert (answer.status, bool(answer.code)) == (status, True)
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers.get("allow") == ("POST" if status == 405 else None)
        more = await caller.post(ISSUE_PATH, b"", media_type=f"{MEDIA_TYPE.upper()}; v=1")
        assert more.status == 200


async def test_overload_is_said_at_once(tmp_path: Path) -> None:
    """Beyond the limit of certificates in progress a caller is told to come back."""
    async with running(settings_for(tmp_path, max_inflight=100)) as world:
        agent = await world.enrol()
        entry = await world.entry(agent)
        request = csr()
        async with agent.connected() as caller:
            calls = [
                asyncio.ensure_future(caller.issue(*[(entry.id, request)] * 90)) for _ in range(4)
            ]
            done = await asyncio.gather(*calls, return_exceptions=True)
            failed = [error for error in done if isinstance(error, Refused)]
            assert failed
            for error in failed:
                assert (error.status, error.code) == (503, "unavailable")
                assert error.remedy == "try again in a second"
            assert len(await caller.issue((entry.id, request))) == 1


async def test_a_defect_is_not_told_in_detail(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller learns that something failed; the log learns what."""

    def fail(pem: str) -> None:
        raise RuntimeError("secret detail")

    agent = await world.enrol()
    monkeypatch.setattr(agent_peer, "_peer", fail)
    async with agent.connected() as caller:
        answer = await caller.post(ISSUE_PATH, b"")
    assert (answer.status, answer.code) == (500, "internal")
    assert b"secret detail" not in answer.body
    assert "secret detail" in caplog.text
    assert answer.json["incident"] in caplog.text


# Renewal of the agent itself


async def test_an_agent_renews_itself(world: World) -> None:
    """A new key gets a certificate of the same identity, which works."""
    agent = await world.enrol()
    key = generate_key()
    async with agent.connected() as caller:
        answer = await caller.renew(build_request(key))
        bad = await refused(caller.renew(build_request(generate_key(), spiffe_id=agent_id("two"))))
    assert (bad.status, bad.code) == (400, "invalid_input")
    assert tuple(answer.feed_keys) == agent.feed_keys
    renewed = Agent(
        spiffe_id=agent.spiffe_id,
        key=key,
        chain=tuple(answer.certificate.certificates),
        feed_keys=agent.feed_keys,
        port=agent.port,
        roots=agent.roots,
    )
    record = await world.services.certificates.get(renewed.serial)
    assert (record.profile, record.spiffe_id) == ("agent", str(agent.spiffe_id))
    async with renewed.connected() as caller:
        assert await caller.issue() == []


# Who is let in


async def test_without_a_certificate_nobody_is_let_in(world: World) -> None:
    """Where TLS lets strangers in, for enrolment, the request is refused, and says why."""
    agent = await world.enrol()
    context = ssl.create_default_context(cadata=agent.roots.decode())
    connection = Connection(world.api.port, context)
    for path in (ISSUE_PATH, RENEW_PATH):
        answer = await connection.ask("POST", path, raw=b"", headers={"content-type": MEDIA_TYPE})
        assert (answer.status, answer.code) == (401, "not_authenticated")
        assert answer.headers["www-authenticate"].startswith("ClientCertificate")
        assert answer.json["detail"] == Cause.NO_CLIENT_CERTIFICATE.explanation
        assert answer.json["remedy"] == Cause.NO_CLIENT_CERTIFICATE.remedy
    connection.close()


async def test_another_authoritys_agent_is_not_let_in(world: World, tmp_path: Path) -> None:
    """The same name, certified by another root, fails in the handshake."""
    async with running(settings_for(tmp_path / "other")) as other:
        stranger = await other.enrol()
    stranger.port = world.api.port
    stranger.roots = (await world.enrol()).roots
    async with stranger.connected() as caller:
        with pytest.raises(OSError, match="unknown ca"):
            await caller.issue()


async def test_an_operator_is_not_an_agent(world: World) -> None:
    """On the port that it shares with agents, an operator's certificate issues nothing."""
    operator = world.connect(world.admin)
    assert (await operator.ask("GET", "/v1/status")).status == 200
    answer = await operator.ask("POST", ISSUE_PATH, raw=b"", headers={"content-type": MEDIA_TYPE})
    assert (answer.status, answer.code) == (403, "not_permitted")


async def test_a_workload_is_not_an_agent(world: World) -> None:
    """A certificate of ours with another kind of identity is known, and not permitted."""
    agent = await world.enrol()
    entry = await world.entry(agent)
    key = generate_key()
    async with agent.connected() as caller:
        (result,) = await caller.issue((entry.id, build_request(key)))
    workload = Agent(
        spiffe_id=spiffe_id("/api"),
        key=key,
        chain=tuple(result.certificate.certificates),
        feed_keys=(),
        port=agent.port,
        roots=agent.roots,
    )
    async with workload.connected() as caller:
        problem = await refused(caller.issue())
    assert (problem.status, problem.code) == (403, "not_permitted")
    assert "is not an agent's identity" in problem.message
    assert problem.remedy


async def test_an_agent_that_never_joined_is_not_let_in(world: World, tmp_path: Path) -> None:
    """A valid certificate is not enough: the store must know the agent."""
    agent = await world.enrol()
    world.services.propagation._agents.clear()  # type: ignore[attr-defined]
    async with agent.connected() as caller:
        problem = await refused(caller.issue())
    assert (problem.status, problem.remedy) == (401, "enrol the agent again")
    assert "has not joined this authority" in problem.message


async def test_a_revoked_agent_is_shut_out_of_its_open_connection(world: World) -> None:
    """The same connection that worked is refused after the revocation, with the reason."""
    agent = await world.enrol()
    async with agent.connected() as caller:
        assert await caller.issue() == []
        await world.services.revocations.revoke_serial(
            agent.serial, reason="keyCompromise", actor=ADMIN
        )
        for call in (caller.issue(), caller.renew(csr())):
            problem = await refused(call)
            assert (problem.status, problem.code) == (401, "not_authenticated")
            assert "was revoked" in problem.message
        assert len(caller.idle) == 1


async def test_a_banned_agent_is_shut_out_until_the_ban_is_lifted(world: World) -> None:
    """A ban alone is enough; a lifted one lets the agent in again."""
    agent = await world.enrol()
    revocations = world.services.revocations
    async with agent.connected() as caller:
        # A ban without certificates to revoke: the agent's own is expired for the store.
        await world.authority.serving._store.revoke_identity(  # type: ignore[attr-defined]
            str(agent.spiffe_id),
            reason="unspecified",
            ban=True,
            at=certificate_from_der(agent.chain[0]).not_valid_after_utc.replace(year=2200),
            audit=_audit(world),
        )
        problem = await refused(caller.issue())
        assert (problem.status, "may not be issued again" in problem.message) == (401, True)
        await revocations.lift(agent.spiffe_id, actor=ADMIN)
        assert await caller.issue() == []


def _audit(world: World) -> AuditDraft:
    return AuditDraft(time=world.clock.now(), actor="test", action="test", subject="test")


async def test_an_expired_certificate_is_refused_on_an_open_connection(tmp_path: Path) -> None:
    """A connection does not outlive the certificate that opened it."""
    async with running(settings_for(tmp_path, agent_lifetime_s=1)) as world:
        agent = await world.enrol()
        async with agent.connected() as caller:
            assert await caller.issue() == []
            async with asyncio.timeout(10):
                while not (problem := await _problem(caller)):
                    await asyncio.sleep(0.05)
            assert (problem.status, "expired at" in problem.message) == (401, True)
            assert len(caller.idle) == 1


async def _problem(caller: Caller) -> Refused | None:
    try:
        await caller.issue()
    except Refused as problem:
        return problem
    return None


async def test_tls_1_2_is_refused(world: World) -> None:
    """In the handshake."""
    agent = await world.enrol()
    context = agent.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    connection = Connection(world.api.port, context)
    with pytest.raises(ssl.SSLError, match="protocol version"):
        await connection.connect()
