"""The agent's connections to the authority, and what it makes of bad answers."""

import asyncio
import contextlib

import pytest

from legation.agent.enrolment import enrol
from legation.agent.upstream import client as agent_client
from legation.agent.upstream import https_client
from legation.agent.upstream.client import AuthorityClient, Credentials
from legation.agent.upstream.problems import error_of
from legation.causes import Cause, Failure
from legation.config.values import Address
from legation.errors import (
    InvalidInput,
    LegationError,
    LimitExceeded,
    NotAuthenticated,
    NotPermitted,
    TimedOut,
    Unavailable,
    VerificationError,
)
from legation.pki import build_request, generate_key
from legation.wire.frames import frame
from legation.wire.protobuf import agent_pb2 as pb
from tests.support.authority import ADMIN, running, settings_for
from tests.support.scripted_authority import ScriptedAuthority

OK = b"HTTP/1.1 200 \r\ncontent-length: 0\r\n\r\n"
FAILED_CHECKS = (
    b'{"code":"verification_failed","detail":"x","remedy":"r","failures":'
    b'[{"cause":"certificate_expired","detail":"since May","subject":"leaf"},'
    b'{"cause":"of the future","detail":"?"}, 7]}'
)
HELLO = pb.SyncRequest(hello=pb.Hello())


@pytest.fixture(scope="module")
def scripted():
    return ScriptedAuthority()


def client_of(scripted, port, *, verify=lambda chain: None):
    identity = scripted.identity()
    return AuthorityClient(
        api=Address("127.0.0.1", port),
        credentials=Credentials(identity=identity, authorities=scripted.bundle.x509_authorities),
        verify=verify,
    )


class Peer:
    """A TLS server that answers as it is told: one entry of `answers` for each connection."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.received = []
        self.connections = 0

    async def serve(self, reader, writer):
        answers = self.answers.pop(0)
        self.connections += 1
        with contextlib.suppress(OSError, EOFError):
            for answer in answers:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.partition(b"content-length: ")[2].split()[0])
                self.received.append(head + await reader.readexactly(length))
                if answer is None:  # silence
                    await reader.read()
                writer.write(answer)
                await writer.drain()
        writer.close()


@pytest.fixture
def serve(scripted):
    @contextlib.asynccontextmanager
    async def serve(*answers, **options):
        peer = Peer(*answers)
        server = await asyncio.start_server(peer.serve, "127.0.0.1", 0, ssl=scripted.tls())
        client = client_of(scripted, server.sockets[0].getsockname()[1], **options)
        async with server:
            yield client, peer
            client.close()

    return serve


async def test_requests_share_a_connection(serve):
    """One after the other, also when they were made at once."""
    async with serve([OK] * 5) as (client, peer):
        assert await client.issue([("e", b"csr")]) == []
        await asyncio.gather(*(client.issue([]) for _ in range(3)))
        assert await client.renew_agent(b"csr") == ((), ())
        assert (peer.connections, len(peer.received)) == (1, 5)
    assert peer.received[0].startswith(b"POST /agent/v1/issue HTTP/1.1\r\n")
    assert peer.received[-1].startswith(b"POST /agent/v1/renew HTTP/1.1\r\n")


async def test_a_connection_that_went_stale_is_replaced(serve):
    """Whether the server closed it before the next request, or on it."""
    async with serve([OK], [OK, b""], [OK]) as (client, peer):
        for _ in range(3):
            assert await client.issue([]) == []
        assert peer.connections == 3


async def test_it_is_replaced_once(serve):
    """A server that accepts and closes is not asked for ever."""
    async with serve([b""], [OK, b""], [b""]) as (client, peer):
        with pytest.raises(Unavailable, match="without an answer"):
            await client.issue([])
        assert await client.issue([]) == []
        with pytest.raises(Unavailable, match="without an answer"):
            await client.issue([])
        assert peer.connections == 3


async def test_an_answer_that_says_close_is_the_last_of_its_connection(serve):
    """The next request goes over a new one."""
    last = b"HTTP/1.1 200 \r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    async with serve([last], [OK]) as (client, peer):
        assert await client.issue([]) == []
        assert await client.issue([]) == []
        assert peer.connections == 2


async def test_new_credentials_make_a_new_connection(scripted, serve):
    """At once when nobody uses the old one, else when its request is over."""
    async with serve([OK, OK], [OK], [OK]) as (client, peer):
        await client.issue([])
        asking = asyncio.create_task(client.issue([]))
        await asyncio.sleep(0)
        for _ in range(2):
            client.use(
                Credentials(
                    identity=scripted.identity(), authorities=scripted.bundle.x509_authorities
                )
            )
            await asking
            await client.issue([])
        assert peer.connections == 3


async def test_nothing_is_sent_to_another_than_the_authority(serve):
    """Where the verification fails after the handshake, not one byte of the request leaves."""

    def refuse(chain):
        assert len(chain) == 2
        raise VerificationError([Failure(cause=Cause.WRONG_IDENTITY, detail="not it")])

    async with serve([OK], verify=refuse) as (client, peer):
        with pytest.raises(VerificationError, match="not it"):
            await client.issue([])
    assert peer.received == []


async def test_an_authority_of_another_root_is_refused(serve):
    """In the handshake, and the words say what to compare."""
    async with serve([OK]) as (client, peer):
        stranger = ScriptedAuthority()
        client.use(
            Credentials(identity=stranger.identity(), authorities=stranger.bundle.x509_authorities)
        )
        with pytest.raises(NotAuthenticated, match="authority's certificate is refused"):
            await client.issue([])
    assert peer.received == []


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (b"ho ho ho\r\n\r\n", Unavailable, "is not HTTP"),
        (b"HTTP/1.1 200 \r\ncontent-length: 9\r\n\r\nshort", Unavailable, "closed the connection"),
        (b"HTTP/1.1 200 \r\ncontent-length: 3\r\n\r\n\xff\xff\xff", InvalidInput, "IssueResponse"),
        (b"HTTP/1.1 200 \r\ncontent-length: 99\r\n\r\n" + bytes(99), LimitExceeded, "longer"),
        (b"HTTP/1.1 200 \r\n" + b"x: y\r\n" * 50_000, Unavailable, "is not HTTP"),
        (b"HTTP/1.1 502 \r\ncontent-length: 4\r\n\r\noops", Unavailable, "HTTP status 502"),
        (None, TimedOut, "did not answer in time"),
    ],
)
async def test_a_bad_answer_is_an_error(serve, monkeypatch, answer, error, words):
    """Each in its own words, and a good connection answers afterwards."""
    monkeypatch.setattr("legation.agent.upstream.client.MAX_RESPONSE_BYTES", 98)
    monkeypatch.setattr(https_client, "CALL_TIMEOUT_S", 0.2)
    async with serve([answer], [OK]) as (client, _):
        with pytest.raises(error, match=words):
            await client.issue([])
        assert await client.issue([]) == []


async def test_a_cancelled_request_leaves_no_half_answer_behind(serve):
    """The next request does not read the answer of the one before."""
    async with serve([None], [OK]) as (client, peer):
        asking = asyncio.create_task(client.issue([]))
        while not peer.received:
            assert not asking.done(), asking.result()
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert await client.issue([]) == []
        assert peer.connections == 2


async def test_an_absent_authority_is_reported(scripted, unused_tcp_port):
    """As unavailable, request or stream."""
    client = client_of(scripted, unused_tcp_port)
    with pytest.raises(Unavailable, match="cannot be reached"):
        await client.issue([])
    with pytest.raises(Unavailable, match="cannot be reached"):
        async with client.sync() as stream:
            await stream.send(HELLO)


STREAM = b"HTTP/1.1 101 \r\nconnection: upgrade\r\nupgrade: legation-sync/1\r\n\r\n"
PADDING = b"\xfa\x3e\x80\x80\x80\x02" + bytes(4 << 20)  # a field of the future
LATER = b"\x00\x00\x00\x05\x1a\x03\x0a\x01x"  # a problem with the code "x"


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (b"", Unavailable, "closed the connection"),
        (b"ho ho ho\r\n\r\n", Unavailable, "is not HTTP"),
        (b"HTTP/1.1 502 \r\ncontent-length: 4\r\n\r\noops", Unavailable, "HTTP status 502"),
        (b"HTTP/1.1 200 \r\ncontent-length: 0\r\n\r\n", Unavailable, "HTTP status 200"),
        (STREAM, Unavailable, "ended the stream"),
        (STREAM + b"\0\0\0\5ab", Unavailable, "ended the stream"),
        (STREAM + b"\0\0\0\2\xff\xff", InvalidInput, "no message of a stream"),
        (STREAM + b"\xff\xff\xff\xff", LimitExceeded, "4294967295 bytes"),
        (STREAM + LATER, LegationError, "^$"),
        (b"HTTP/1.1 103 \r\n\r\n" + STREAM, Unavailable, "ended the stream"),
    ],
    ids=[
        "nothing", "no HTTP", "refused", "no upgrade", "ended at once", "half a message",
        "no protobuf", "too long", "a problem of the future", "after a hint",
    ],
)  # fmt: skip
async def test_a_bad_stream_is_an_error(scripted, answer, error, words):
    """Whatever the server does instead of serving one, in words, and the connection closes."""

    async def misbehave(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(misbehave, "127.0.0.1", 0, ssl=scripted.tls())
    async with server:
        client = client_of(scripted, server.sockets[0].getsockname()[1])
        with pytest.raises(error, match=words):
            await received(client)


async def test_a_stream_is_read_no_faster_than_it_is_taken(scripted):
    """What nobody has taken is bounded, and nothing of it is lost or out of order."""
    messages = [
        pb.SyncResponse(heartbeat=pb.Heartbeat(revision=number, now_ms=2**40))
        for number in range(9)
    ]
    padded = [each.SerializeToString() + PADDING for each in messages]
    sent = asyncio.Event()

    async def pour(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(STREAM)
        await reader.readexactly(4 + len(HELLO.SerializeToString()))
        for each in padded:
            writer.write(frame(each))
            await writer.drain()
        sent.set()
        writer.close()

    server = await asyncio.start_server(pour, "127.0.0.1", 0, ssl=scripted.tls())
    async with server:
        client = client_of(scripted, server.sockets[0].getsockname()[1])
        async with client.sync() as stream:
            await stream.send(HELLO)
            await asyncio.sleep(0.3)
            assert not sent.is_set()
            found = [(await stream.receive()).heartbeat.revision for _ in messages]
            assert found == list(range(9))
            with pytest.raises(Unavailable, match="ended the stream"):
                await stream.receive()
            with pytest.raises(Unavailable, match="ended the stream"):
                await stream.send(HELLO)


async def received(client):
    """Read a stream to its end."""
    async with client.sync() as stream:
        while True:
            await stream.receive()


async def test_a_stream_that_is_never_granted_times_out(scripted, monkeypatch):
    """A server that accepts and says nothing does not hold the agent up for ever."""
    monkeypatch.setattr(agent_client, "CALL_TIMEOUT_S", 0.1)

    async def say_nothing(reader, writer):
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0, ssl=scripted.tls())
    async with server:
        client = client_of(scripted, server.sockets[0].getsockname()[1])
        with pytest.raises(TimedOut, match="did not answer in time"):
            await received(client)


@pytest.fixture
async def real(tmp_path):
    async with running(settings_for(tmp_path)) as world:
        yield world


@pytest.fixture
async def enrolled(real, scripted):
    """A client of an agent that the real authority knows."""
    identity, membership = await enrol(await real.invitation(), clock=real.clock)
    client = AuthorityClient(
        api=Address("127.0.0.1", membership.api_port),
        credentials=Credentials(identity=identity, authorities=membership.bundle.x509_authorities),
        verify=lambda chain: None,
    )
    yield client, identity
    client.close()


async def listen(client, then=None):
    """Open a stream and read it to its end."""
    async with client.sync() as stream:
        await stream.send(HELLO)
        await stream.receive()
        if then is not None:
            await then()
        while True:
            await stream.receive()


async def test_a_refusal_arrives_with_code_and_remedy(real, enrolled):
    """Whatever carries it: an answer, the end of an open stream, a stream that never began."""
    client, identity = enrolled
    assert await client.issue([]) == []
    async with client.sync() as stream:
        await stream.send(HELLO)
        await stream.receive()
        with pytest.raises(InvalidInput, match="asks for") as asked:
            await client.renew_agent(
                build_request(generate_key(), spiffe_id=real.authority.serving.spiffe_id)
            )
    assert asked.value.remedy == "leave the SPIFFE ID out of the request, or correct it"

    async def revoke():
        await real.services.revocations.revoke_serial(
            identity.serial, reason="keyCompromise", actor=ADMIN
        )

    with pytest.raises(NotAuthenticated) as ended:
        await listen(client, then=revoke)
    with pytest.raises(NotAuthenticated) as refused:
        await client.issue([])
    with pytest.raises(NotAuthenticated) as not_begun:
        await listen(client)
    for caught in (ended, refused, not_begun):
        assert "was revoked" in caught.value.message
        assert caught.value.remedy == Cause.CERTIFICATE_REVOKED.remedy


async def test_each_item_has_its_own_refusal(real, enrolled):
    """A result that is a problem is an error with code and remedy."""
    client, _ = enrolled
    (error,) = await client.issue([("nowhere", b"")])
    assert error.code == "not_found"
    assert error.remedy == "check the entry's agents: `legation entry show`"


@pytest.mark.parametrize(
    ("status", "content", "error", "words"),
    [
        (403, b'{"code":"not_permitted","detail":"no","remedy":"ask"}', NotPermitted, "no"),
        (403, b'{"code":"not_permitted"}', NotPermitted, "not_permitted"),
        (
            422,
            FAILED_CHECKS,
            VerificationError,
            "leaf: certificate_expired: since May",
        ),
        (500, b"[", Unavailable, "HTTP status 500"),
        (500, b"[]", Unavailable, "HTTP status 500"),
        (500, b'{"code":7}', Unavailable, "HTTP status 500"),
    ],
)
def test_a_problem_document_becomes_its_error(status, content, error, words):
    """The kind by its code, with message, remedy and failed checks; else by the status."""
    found = error_of(status, content)
    assert (type(found), found.message.endswith(words)) == (error, True)
