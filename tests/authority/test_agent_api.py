"""The agents' API, over real gRPC and real TLS."""

import asyncio
import dataclasses
import ssl
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from legation.authority import agent_peer
from legation.authority.agent_peer import CODE_KEY, REMEDY_KEY
from legation.authority.events import AgentConnected, AgentDisconnected, HandshakesRefused, Issued
from legation.authority.store import AuditDraft
from legation.authority.wiring import build
from legation.errors import Conflict, Unavailable
from legation.pki import (
    KeyAlgorithm,
    build_request,
    certificate_from_der,
    certificates_to_pem,
    generate_key,
    private_key_to_pem,
)
from legation.wire.feed import Kind
from legation.wire.protobuf import agent_pb2 as pb
from tests.support.authority import (
    ADMIN,
    KEK,
    SERVICE,
    Agent,
    Caller,
    Stream,
    World,
    agent_id,
    certificate_of,
    running,
    settings_for,
    spiffe_id,
)


def csr() -> bytes:
    return build_request(generate_key())


async def refused(work: object) -> tuple[grpc.StatusCode, str, dict[str, object]]:
    """Return status, message and trailing metadata of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await work  # type: ignore[misc]
    error = caught.value
    return error.code(), error.details() or "", dict(error.trailing_metadata() or ())


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
        agent.port = world.authority.agents_port
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
        code, message, metadata = await refused(caller.issue(*[("e", b"")] * 501))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "at most 500 are accepted" in message
    assert metadata[CODE_KEY] == "limit_exceeded"
    assert metadata[REMEDY_KEY] == b"split the request"


async def test_an_oversized_message_is_refused(world: World) -> None:
    """gRPC itself stops what no valid request can be."""
    agent = await world.enrol()
    async with agent.connected() as caller:
        code, _, _ = await refused(caller.issue(("e", bytes(13 << 20))))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_malformed_message_is_refused(world: World) -> None:
    """Bytes that are no protobuf end the call, not the server."""
    agent = await world.enrol()
    async with agent.connected() as caller:
        code, message, _ = await refused(caller.issue_raw(b"\xff\xff\xff"))
        assert (code, message) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "these bytes are not of the type IssueRequest",
        )
        stream = caller.channel.stream_stream(f"{SERVICE}/Sync")()
        await stream.write(b"\xff\xff\xff")
        assert await stream.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert await caller.issue() == []


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
            failed = [error for error in done if isinstance(error, grpc.aio.AioRpcError)]
            assert failed
            for error in failed:
                assert error.code() is grpc.StatusCode.UNAVAILABLE
                assert dict(error.trailing_metadata() or ())[REMEDY_KEY] == b"try again in a second"
            assert len(await caller.issue((entry.id, request))) == 1


async def test_a_defect_is_not_told_in_detail(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller learns that something failed; the log learns what."""

    def fail(pem: bytes) -> None:
        raise RuntimeError("secret detail")

    agent = await world.enrol()
    monkeypatch.setattr(agent_peer, "_peer", fail)
    async with agent.connected() as caller:
        code, message, metadata = await refused(caller.issue())
    assert (code, metadata[CODE_KEY]) == (grpc.StatusCode.INTERNAL, "internal")
    assert "secret detail" not in message
    assert "secret detail" in caplog.text


# RenewAgent


async def test_an_agent_renews_itself(world: World) -> None:
    """A new key gets a certificate of the same identity, which works."""
    agent = await world.enrol()
    key = generate_key()
    async with agent.connected() as caller:
        answer = await caller.renew(build_request(key))
        bad = await refused(caller.renew(build_request(generate_key(), spiffe_id=agent_id("two"))))
    assert bad[0] is grpc.StatusCode.INVALID_ARGUMENT
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
    """The handshake fails."""
    agent = await world.enrol()
    credentials = grpc.ssl_channel_credentials(agent.roots)
    async with grpc.aio.secure_channel(f"localhost:{agent.port}", credentials) as channel:
        code, _, _ = await refused(Caller(channel).issue())
    assert code is grpc.StatusCode.UNAVAILABLE


async def test_plaintext_is_not_spoken(world: World) -> None:
    """An insecure channel gets nowhere."""
    async with grpc.aio.insecure_channel(f"localhost:{world.authority.agents_port}") as channel:
        code, _, _ = await refused(Caller(channel).issue())
    assert code is grpc.StatusCode.UNAVAILABLE


async def test_another_authoritys_agent_is_not_let_in(world: World, tmp_path: Path) -> None:
    """The same name, certified by another root, fails in the handshake."""
    async with running(settings_for(tmp_path / "other")) as other:
        stranger = await other.enrol()
    stranger.port = world.authority.agents_port
    stranger.roots = (await world.enrol()).roots
    async with stranger.connected() as caller:
        code, _, _ = await refused(caller.issue())
    assert code is grpc.StatusCode.UNAVAILABLE


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
        code, message, metadata = await refused(caller.issue())
        assert code is grpc.StatusCode.PERMISSION_DENIED
        assert "is not an agent's identity" in message
        stream = await caller.sync()
        assert (await stream.ended())[0] is grpc.StatusCode.PERMISSION_DENIED
    assert metadata[CODE_KEY] == "not_permitted"


async def test_an_agent_that_never_joined_is_not_let_in(world: World, tmp_path: Path) -> None:
    """A valid certificate is not enough: the store must know the agent."""
    agent = await world.enrol()
    world.services.propagation._agents.clear()  # type: ignore[attr-defined]
    async with agent.connected() as caller:
        code, message, _ = await refused(caller.issue())
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert "has not joined this authority" in message


async def test_a_revoked_agent_is_shut_out_of_its_open_connection(world: World) -> None:
    """The same channel that worked is refused after the revocation, with the reason."""
    agent = await world.enrol()
    async with agent.connected() as caller:
        assert await caller.issue() == []
        await world.services.revocations.revoke_serial(
            agent.serial, reason="keyCompromise", actor=ADMIN
        )
        for call in (caller.issue(), caller.renew(csr())):
            code, message, _ = await refused(call)
            assert code is grpc.StatusCode.UNAUTHENTICATED
            assert "was revoked" in message


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
        code, message, _ = await refused(caller.issue())
        assert (code, "may not be issued again" in message) == (
            grpc.StatusCode.UNAUTHENTICATED,
            True,
        )
        await revocations.lift(agent.spiffe_id, actor=ADMIN)
        assert await caller.issue() == []


def _audit(world: World) -> AuditDraft:
    return AuditDraft(time=world.clock.now(), actor="test", action="test", subject="test")


async def test_an_expired_certificate_is_refused_on_an_open_connection(tmp_path: Path) -> None:
    """A connection does not outlive the certificate that opened it."""
    async with running(settings_for(tmp_path, agent_lifetime_s=1)) as world:
        agent = await world.enrol()
        async with agent.connected() as caller:
            stream = await caller.sync()
            await stream.events()
            code, message = await stream.ended()
            assert (code, "expired at" in message) == (grpc.StatusCode.UNAUTHENTICATED, True)
            code, message, _ = await refused(caller.issue())
            assert (code, "expired at" in message) == (grpc.StatusCode.UNAUTHENTICATED, True)


async def test_tls_1_2_is_refused(world: World) -> None:
    """Even where the library would complete the handshake, no request is answered."""
    agent = await world.enrol()
    chain = certificates_to_pem(certificate_from_der(der) for der in agent.chain)
    directory = world.settings.data_dir
    (directory / "chain.pem").write_bytes(chain + private_key_to_pem(agent.key))
    context = ssl.create_default_context(cadata=agent.roots.decode())
    context.load_cert_chain(directory / "chain.pem")
    context.set_alpn_protocols(["h2"])
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    channel = Channel("localhost", agent.port, ssl=context)
    try:
        method = UnaryUnaryMethod(
            channel, "/legation.agent.v1.AgentService/Issue", pb.IssueRequest, pb.IssueResponse
        )
        with pytest.raises(GRPCError) as caught:
            await method(pb.IssueRequest(), timeout=10)
    finally:
        channel.close()
    assert caught.value.status is Status.UNAUTHENTICATED
    assert "TLS 1.3" in (caught.value.message or "")


# Sync


async def test_an_agent_gets_a_snapshot_then_what_follows(world: World) -> None:
    """And nothing that is only for others."""
    agent, other = await world.enrol("one"), await world.enrol("two")
    mine = await world.entry(agent)
    await world.entry(other)
    async with agent.connected() as caller:
        stream = await caller.sync(version="1.2")
        first = await stream.events()
        assert first.snapshot
        events = stream.opened(first)
        while not first.complete:
            first = await stream.events()
            events += stream.opened(first)
        assert [e.key for e in events if e.kind is Kind.ENTRY] == [mine.id]
        assert {e.kind for e in events} == {Kind.BUNDLE, Kind.CRL, Kind.ENTRY}
        await world.services.entries.update(mine.id, {"owner": "me"}, actor=ADMIN)
        (event,) = await stream.until(first.revision + 1)
        assert (event.value or {})["owner"] == "me"
    connected = world.heard(AgentConnected)[-1]
    assert (connected.agent, connected.version, connected.snapshot) == (
        str(agent.spiffe_id),
        "1.2",
        True,
    )


async def test_an_agent_resumes_where_it_was(world: World) -> None:
    """Only what it missed is sent; of another feed it gets everything."""
    agent = await world.enrol()
    async with agent.connected() as caller:
        stream = await caller.sync()
        first = await stream.events()
        while not first.complete:
            first = await stream.events()
        stream.call.cancel()
        entry = await world.entry(agent)
        stream = await caller.sync(revision=first.revision, feed_id=first.feed_id)
        part = await stream.events()
        assert not part.snapshot
        assert [event.key for event in stream.opened(part)] == [entry.id]
        stream.call.cancel()
        stream = await caller.sync(revision=first.revision, feed_id="another")
        assert (await stream.events()).snapshot


async def test_an_idle_stream_has_heartbeats(world: World) -> None:
    """They say the authority's time and its newest revision."""
    agent = await world.enrol()
    async with agent.connected() as caller:
        stream = await caller.sync()
        beats: list[pb.Heartbeat] = []
        while len(beats) < 3:
            message = await stream.receive()
            assert message is not None
            if message.HasField("heartbeat"):
                beats.append(message.heartbeat)
    now_ms = world.clock.now().timestamp() * 1000
    assert all(abs(beat.now_ms - now_ms) < 5000 for beat in beats)
    assert beats[-1].revision == world.services.status.status()["revision"]


async def test_what_an_agent_states_is_on_the_board(world: World) -> None:
    """Points come with a statement, go when one lacks them, and stay, marked, when it leaves."""
    agent = await world.enrol()
    board = world.services.propagation

    def statement(*points: str, revision: int) -> pb.SyncRequest:
        return pb.SyncRequest(
            acknowledgement=pb.Acknowledgement(
                revision=revision,
                points=[
                    pb.EnforcementPoint(
                        id=point,
                        kind="envoy",
                        spiffe_id="spiffe://example.org/api",
                        revision=revision,
                        applied_at_ms=1_900_000_000_000,
                        capabilities=["rbac"],
                        notes=["2 connections cut"],
                    )
                    for point in points
                ],
            )
        )

    async with agent.connected() as caller:
        stream = await caller.sync()
        await stream.events()
        for points in (("p1", "p2"), ("p2",)):
            changed = asyncio.ensure_future(board.wait_for_change(timeout_s=5))
            await stream.send(statement(*points, revision=3))
            await changed
            assert [point.id for point in board.points()] == list(points)
        (point,) = board.points()
        assert (point.agent, point.kind, point.revision, point.connected) == (
            agent.spiffe_id,
            "envoy",
            3,
            True,
        )
        assert point.applied_at is not None
        assert (point.capabilities, point.notes) == (("rbac",), ("2 connections cut",))
        (row,) = board.agents()
        assert (row.connected, row.revision, row.version) == (True, 3, "1")
        changed = asyncio.ensure_future(board.wait_for_change(timeout_s=5))
        stream.call.cancel()
        await changed
    assert [(p.id, p.connected) for p in board.points()] == [("p2", False)]
    assert [row.connected for row in board.agents()] == [False]


async def test_too_many_points_end_the_stream(world: World) -> None:
    """What one agent may state is bounded."""
    agent = await world.enrol()
    async with agent.connected() as caller:
        stream = await caller.sync()
        await stream.send(
            pb.SyncRequest(
                acknowledgement=pb.Acknowledgement(
                    points=[pb.EnforcementPoint(id=str(number)) for number in range(4097)]
                )
            )
        )
        code, message = await stream.ended()
    assert (code, "at most 4096" in message) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
    assert world.services.propagation.points() == []


async def test_reported_refusals_become_events(world: World) -> None:
    """With bounded texts, however long an agent writes."""
    agent = await world.enrol()
    async with agent.connected() as caller:
        stream = await caller.sync()
        await stream.send(
            pb.SyncRequest(
                reports=pb.Reports(
                    refusals=[
                        pb.Refusal(
                            point="p",
                            cause="certificate_revoked",
                            serial="ff",
                            count=3,
                            raw="x" * 9999,
                        )
                    ]
                )
            )
        )
        async with asyncio.timeout(5):
            while not world.heard(HandshakesRefused):
                await asyncio.sleep(0.01)
    (event,) = world.heard(HandshakesRefused)
    assert (event.agent, event.point, event.cause, event.count) == (
        str(agent.spiffe_id),
        "p",
        "certificate_revoked",
        3,
    )
    assert len(event.raw) == 512


@pytest.mark.parametrize("ban", [True, False], ids=["banned", "revoked"])
async def test_a_revoked_agents_stream_ends_at_once(world: World, *, ban: bool) -> None:
    """Long before the next heartbeat, and other agents' streams go on."""
    agent, other = await world.enrol("one"), await world.enrol("two")
    async with agent.connected() as caller, other.connected() as bystander:
        stream, going_on = await caller.sync(), await bystander.sync()
        await stream.events()
        await going_on.events()
        outcome = await world.services.revocations.revoke_identity(
            agent.spiffe_id, reason="keyCompromise", ban=ban, actor=ADMIN
        )
        async with asyncio.timeout(2):
            code, message = await stream.ended()
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert "revoked" in message or "banned" in message
        assert await going_on.until(outcome.revision)
    assert world.heard(AgentDisconnected)[0].agent == str(agent.spiffe_id)


async def test_the_newer_stream_of_an_agent_wins(world: World) -> None:
    """The older ends with the reason; the board follows the newer."""
    agent = await world.enrol()
    async with agent.connected() as caller, agent.connected() as again:
        older = await caller.sync()
        await older.events()
        newer = await again.sync()
        await newer.events()
        code, message = await older.ended()
        assert code.name == "ALREADY_EXISTS"
        assert "another stream" in message
        assert [row.connected for row in world.services.propagation.agents()] == [True]


@pytest.mark.parametrize(
    "first",
    [pb.SyncRequest(), pb.SyncRequest(acknowledgement=pb.Acknowledgement(revision=1))],
    ids=["empty", "an acknowledgement"],
)
async def test_a_stream_begins_with_hello(world: World, first: pb.SyncRequest) -> None:
    """Anything else ends it; so does a second hello."""
    agent = await world.enrol()
    async with agent.connected() as caller:
        stream = Stream(caller)
        await stream.send(first)
        code, message = await stream.ended()
        assert (code, "hello" in message) == (grpc.StatusCode.INVALID_ARGUMENT, True)
        stream = await caller.sync()
        await stream.send(pb.SyncRequest(hello=pb.Hello()))
        code, message = await stream.ended()
        assert (code, "one hello" in message) == (grpc.StatusCode.INVALID_ARGUMENT, True)


async def test_stopping_ends_streams_in_good_order(tmp_path: Path) -> None:
    """Agents are told that the authority stops, and it does not wait for them."""
    settings = settings_for(tmp_path)
    async with AsyncExitStack() as outer, AsyncExitStack() as inner:
        world = await inner.enter_async_context(running(settings))
        agent = await world.enrol()
        caller = await outer.enter_async_context(agent.connected())
        stream = await caller.sync()
        await stream.events()
        begun = world.clock.monotonic()
        _, (code, message) = await asyncio.gather(inner.aclose(), stream.ended())
        assert world.clock.monotonic() - begun < 2
    assert (code, "is stopping" in message) == (grpc.StatusCode.UNAVAILABLE, True)


async def test_the_port_cannot_be_shared(world: World, tmp_path: Path) -> None:
    """A second authority on the same port is refused, and so is one on the same directory."""
    settings = settings_for(tmp_path / "other", agents_port=world.authority.agents_port)
    with pytest.raises(Unavailable, match="cannot listen"):
        async with running(settings):
            pass
    with pytest.raises(Conflict, match="is running on"):
        async with build(world.settings, clock=world.clock, kek=KEK):
            pass


async def test_a_new_serving_certificate_is_used_by_new_connections(world: World) -> None:
    """The old connection lives on, a new one sees the new certificate."""
    agent = await world.enrol()
    before = await _served(world.authority.agents_port, agent)
    async with agent.connected() as caller:
        await caller.issue()
        await world.authority.serving.renew()
        assert await caller.issue() == []
    after = await _served(world.authority.agents_port, agent)
    assert before != after == world.authority.serving.credentials.serial


async def _served(port: int, agent: Agent) -> int:
    context = ssl.create_default_context(cadata=agent.roots.decode())
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection("localhost", port, ssl=context)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return certificate_from_der(der).serial_number
