"""The Workload API: the PyPI `spiffe` client in a process of its own, and hand-made calls."""

import asyncio
import json
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from grpclib.client import Channel, UnaryStreamMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from legation.agent.local import workload_api
from legation.pki import certificates_from_der, private_key_from_der
from legation.wire.feed import Kind, PublishedCRL
from legation.wire.protobuf import agent_pb2
from legation.wire.protobuf import workload_pb2 as pb
from tests.support.scripted_authority import TRUST_DOMAIN

MINE = (f"unix:uid:{os.getuid()}",)
HEADER = {"workload.spiffe.io": "true"}
BAN = {"spiffe_id": "spiffe://example.org/api", "reason": "x", "since": "2026-01-01T00:00:00Z"}


@pytest.fixture
async def channel(agent, settings):
    channel = Channel(path=str(settings.socket))
    yield channel
    channel.close()


async def served(agent, condition=bool):
    async with asyncio.timeout(10):
        async for _ in agent.identities.watch():
            serials = [row.serial for row in agent.identities.status() if row.serial]
            if condition(serials):
                break
    return serials


def streaming(channel, name, request, response, metadata=HEADER):
    return UnaryStreamMethod(channel, f"/SpiffeWorkloadAPI/{name}", request, response).open(
        metadata=metadata
    )


def svids(channel, metadata=HEADER):
    return streaming(channel, "FetchX509SVID", pb.X509SVIDRequest, pb.X509SVIDResponse, metadata)


async def first_message(call, request):
    async with asyncio.timeout(10), call as stream:
        await stream.send_message(request, end=True)
        message = await stream.recv_message()
        await stream.cancel()
    return message


class SpiffeClient:
    """The `spiffe` package in a child process."""

    def __init__(self, settings, count=1):
        self._command = [
            sys.executable,
            str(Path(__file__).with_name("spiffe_client.py")),
            str(settings.socket),
            str(count),
        ]

    async def __aenter__(self):
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdout=asyncio.subprocess.PIPE
        )
        return self

    async def __aexit__(self, *_):
        if self._process.returncode is None:
            self._process.kill()
        await self._process.communicate()

    async def line(self):
        async with asyncio.timeout(20):
            return (await self._process.stdout.readline()).decode().strip()


async def test_the_spiffe_client_follows_rotation(authority, agent, make_entry, settings):
    """An independent client gets its SVID, and each new one in place, without a new call."""
    authority.put_entry(make_entry(selectors=MINE))
    (first,) = await served(agent)
    async with SpiffeClient(settings, count=3) as client:
        assert await client.line() == f"spiffe://example.org/api {first}"
        serials = [first]
        for _ in range(2):
            agent.identities.rotate_now()
            (serial,) = await served(agent, lambda now: now and now[-1] not in serials)
            serials.append(serial)
            assert await client.line() == f"spiffe://example.org/api {serial}"


async def test_the_spiffe_client_without_identity_is_refused(authority, agent, settings):
    """A process that no entry describes is told so: PERMISSION_DENIED."""
    async with SpiffeClient(settings) as client:
        answer = await client.line()
    assert answer.startswith("refused: ")
    assert "PERMISSION_DENIED" in answer
    assert "no identity is issued to this process" in answer


async def test_the_answer_holds_everything_a_workload_needs(authority, agent, channel, make_entry):
    """One message has chain, key, bundle, the partners' bundles and the revocation lists."""
    now = datetime.now(UTC)
    crl = PublishedCRL(
        issuer="ab",
        shard=0,
        number=1,
        this_update=now,
        next_update=now + timedelta(hours=1),
        url="",
        der=b"a list",
    )
    authority.publish(Kind.CRL, crl.key, crl.to_value())
    authority.publish(Kind.BUNDLE, "partner.test", authority.bundle.to_document())
    authority.put_entry(make_entry(selectors=MINE))
    message = await first_message(svids(channel), pb.X509SVIDRequest())
    (svid,) = message.svids
    leaf, issuer = certificates_from_der(svid.x509_svid)
    assert leaf.public_key() == private_key_from_der(svid.x509_svid_key).public_key()
    assert issuer == authority.issuer.certificate
    assert certificates_from_der(svid.bundle) == authority.bundle.x509_authorities
    assert list(message.crl) == [b"a list"]
    assert set(message.federated_bundles) == {"spiffe://partner.test"}


async def test_bundles_are_served_by_trust_domain(authority, agent, channel, make_entry):
    """X.509 and JWT bundles come keyed by trust domain ID, to who has an identity."""
    authority.put_entry(make_entry(selectors=MINE))
    x509 = await first_message(
        streaming(channel, "FetchX509Bundles", pb.X509BundlesRequest, pb.X509BundlesResponse),
        pb.X509BundlesRequest(),
    )
    assert set(x509.bundles) == {f"spiffe://{TRUST_DOMAIN}"}
    jwt = await first_message(
        streaming(channel, "FetchJWTBundles", pb.JWTBundlesRequest, pb.JWTBundlesResponse),
        pb.JWTBundlesRequest(),
    )
    assert set(jwt.bundles) == {f"spiffe://{TRUST_DOMAIN}"}
    (key,) = json.loads(jwt.bundles[f"spiffe://{TRUST_DOMAIN}"])["keys"]
    assert (key["kid"], key["use"]) == ("k1", "jwt-svid")


@pytest.mark.parametrize("method", ["FetchX509Bundles", "FetchJWTBundles"])
async def test_bundles_are_refused_to_strangers(authority, agent, channel, method):
    """A process without identity gets no bundles either."""
    with pytest.raises(GRPCError) as caught:
        await first_message(
            streaming(channel, method, pb.X509BundlesRequest, pb.X509BundlesResponse),
            pb.X509BundlesRequest(),
        )
    assert caught.value.status is Status.PERMISSION_DENIED


@pytest.mark.parametrize("metadata", [{}, {"workload.spiffe.io": "false"}])
async def test_a_call_without_the_security_header_is_invalid(
    authority, agent, channel, make_entry, metadata
):
    """Without `workload.spiffe.io: true` even an entitled caller gets INVALID_ARGUMENT."""
    authority.put_entry(make_entry(selectors=MINE))
    await served(agent)
    with pytest.raises(GRPCError) as caught:
        await first_message(svids(channel, metadata), pb.X509SVIDRequest())
    assert caught.value.status is Status.INVALID_ARGUMENT


async def test_a_ban_ends_the_stream(authority, agent, channel, make_entry):
    """A workload whose identity is banned is told at once, on the open stream."""
    authority.put_entry(make_entry(selectors=MINE))
    with pytest.raises(GRPCError) as caught:  # noqa: PT012 - raised on leaving the stream
        async with asyncio.timeout(10), svids(channel) as stream:
            await stream.send_message(pb.X509SVIDRequest(), end=True)
            assert await stream.recv_message()
            authority.publish(Kind.BAN, BAN["spiffe_id"], BAN)
            assert await stream.recv_message() is None
    assert caught.value.status is Status.PERMISSION_DENIED


async def test_an_unrelated_change_sends_nothing(authority, agent, channel, make_entry):
    """Events that do not concern a caller's answer do not wake the caller."""
    authority.put_entry(make_entry(selectors=MINE))
    (first,) = await served(agent)
    async with asyncio.timeout(10), svids(channel) as stream:
        await stream.send_message(pb.X509SVIDRequest(), end=True)
        await stream.recv_message()
        other = "spiffe://example.org/other"
        authority.publish(Kind.BAN, other, {**BAN, "spiffe_id": other})
        await authority.until_acknowledged()
        agent.identities.rotate_now()
        message = await stream.recv_message()
        (leaf, _) = certificates_from_der(message.svids[0].x509_svid)
        assert leaf.serial_number != first
        await stream.cancel()


async def test_a_caller_whose_identity_is_on_its_way_waits(
    authority, agent, channel, make_entry, monkeypatch
):
    """A caller with an entry but no certificate yet is not refused; it is asked to come again
    only after a while.
    """
    monkeypatch.setattr(workload_api, "PENDING_S", 0.05)
    authority.refuse["e1"] = agent_pb2.Problem(code="unavailable", message="later")
    authority.put_entry(make_entry(selectors=MINE))
    await authority.until_acknowledged()
    with pytest.raises(GRPCError, match="not been issued yet") as caught:
        await first_message(svids(channel), pb.X509SVIDRequest())
    assert caught.value.status is Status.UNAVAILABLE
    monkeypatch.undo()
    authority.refuse.clear()
    agent.identities.rotate_now()
    assert (await first_message(svids(channel), pb.X509SVIDRequest())).svids


async def test_streams_of_one_user_are_bounded(authority, agent, channel, make_entry, monkeypatch):
    """One user cannot keep more streams open than the limit; others end and make room."""
    monkeypatch.setattr(workload_api, "MAX_STREAMS_PER_USER", 1)
    authority.put_entry(make_entry(selectors=MINE))
    async with asyncio.timeout(10), svids(channel) as stream:
        await stream.send_message(pb.X509SVIDRequest(), end=True)
        await stream.recv_message()
        with pytest.raises(GRPCError) as caught:
            await first_message(svids(channel), pb.X509SVIDRequest())
        assert caught.value.status is Status.RESOURCE_EXHAUSTED
        await stream.cancel()


async def test_lists_too_large_for_a_message_are_left_out(
    authority, agent, channel, make_entry, monkeypatch
):
    """Revocation lists that no client would accept in one message do not cost the SVID."""
    monkeypatch.setattr(workload_api, "MAX_CRL_BYTES", 3)
    now = datetime.now(UTC)
    crl = PublishedCRL(
        issuer="ab", shard=0, number=1, this_update=now, next_update=now, url="", der=b"list"
    )
    authority.publish(Kind.CRL, crl.key, crl.to_value())
    authority.put_entry(make_entry(selectors=MINE))
    message = await first_message(svids(channel), pb.X509SVIDRequest())
    assert message.svids
    assert not message.crl
