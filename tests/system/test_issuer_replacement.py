"""The issuer replaced under load: nobody notices, and what it has signed ends with it."""

import asyncio
import dataclasses
from collections.abc import Callable
from functools import partial

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificates

from legation.demo.callers import HTTP1Connection, HTTP2Connection, Load, call_once
from legation.demo.deployment import TRUST_DOMAIN, Deployment
from legation.demo.workload import FetchedIdentity
from legation.pki import TrustDomain
from legation.pki.verification import Purpose
from legation.sdk import AsyncX509Source
from legation.sdk.authorize import authorize_member_of
from legation.sdk.peers import PeerRefused, PeerVerifier
from tests.support.attempts import context_of
from tests.support.policies import allow_text
from tests.system.conftest import MakeDeployment, fetch_callers, start_pair

pytestmark = pytest.mark.alone

CALLER = allow_text(
    f"spiffe://{TRUST_DOMAIN}/api", f"spiffe://{TRUST_DOMAIN}/caller", name="caller"
)


@pytest.mark.envoy
@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_an_issuer_is_replaced_under_load_and_then_removed(
    make_deployment: MakeDeployment,
) -> None:
    """No request fails, every certificate is the new issuer's, and one of the old that has not
    expired is refused by Envoy and by the SDK as revoked.
    """
    deployment = await make_deployment()
    pair = await start_pair(deployment)
    await deployment.cli("policy", "apply", "-f", "-", input_text=CALLER)
    stale = _kept((await fetch_callers(deployment, "caller"))["caller"])
    (old,) = await _issuers(deployment, "active")
    async with AsyncX509Source(f"unix://{deployment.socket}") as source:
        await source.wait_ready()
        verifier = PeerVerifier(
            source,
            authorize=authorize_member_of(TrustDomain(TRUST_DOMAIN)),
            purpose=Purpose.CLIENT,
        )
        verifier.verify(*_presented(stale))
        assert await _status(pair.inbound, stale) == 200
        load = Load()
        for opens, per_connection in (
            (HTTP1Connection.open, None),
            (HTTP1Connection.open, 1),
            (HTTP2Connection.open, None),
        ):
            load.keep_alive(
                partial(opens, pair.outbound), "/api/data", per_connection=per_connection
            )
        new = await deployment.cli_json("issuer", "replace", "--rate", "100", "--wait")
        removed = await deployment.cli_json("issuer", "remove", old["key_id"])
        assert removed["state"] == "removed"
        async with asyncio.timeout(10):
            refusal = await _refused_by_sdk(verifier, stale)
            seen = await _refused_by_envoy(pair.inbound, stale)
        tally = await load.stop()
    print(f"{tally.requests} requests, {tally.failed} failed; the SDK: {refusal}; Envoy: {seen}")
    assert tally.failed == 0, tally.reasons
    assert tally.requests > 100
    assert refusal == "certificate_revoked"
    assert "revoked" in seen.lower()
    await _assert_all_of(deployment, new["key_id"])
    fresh = (await fetch_callers(deployment, "caller/fresh"))["caller/fresh"]
    assert await _status(pair.inbound, fresh) == 403  # let in, and no policy lets it do anything


@pytest.mark.envoy
@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_compromised_issuer_ends_open_connections_too(
    make_deployment: MakeDeployment,
) -> None:
    """Revoked, an issuer takes with it whoever shows what it has signed, on connections that are
    open as well, while those that were re-issued go on.
    """
    deployment = await make_deployment(server={"revocation": {"second_operator_above": "never"}})
    pair = await start_pair(deployment)
    await deployment.cli("policy", "apply", "-f", "-", input_text=CALLER)
    stale = _kept((await fetch_callers(deployment, "caller"))["caller"])
    (old,) = await _issuers(deployment, "active")
    assert await _status(pair.inbound, stale) == 200
    open_connection = await HTTP1Connection.open(pair.inbound, context_of(stale))
    assert (await open_connection.get("/api/data")).ok
    load = Load()
    load.keep_alive(partial(HTTP1Connection.open, pair.outbound), "/api/data")
    preview = await deployment.cli_json("revoke", "--issuer", old["key_id"], "--dry-run")
    assert {row["spiffe_id"] for row in preview["identities"]} >= {stale.spiffe_id}
    await deployment.cli("revoke", "--issuer", old["key_id"], "--wait", "--timeout", "60")
    answers = []
    async with asyncio.timeout(10):
        while not answers or answers[-1].status is not None:
            answers.append(await open_connection.get("/api/data"))
            await asyncio.sleep(0.05)
        seen = await _refused_by_envoy(pair.inbound, stale)
    open_connection.close()
    tally = await load.stop()
    refused = [answer for answer in answers if answer.status is not None and not answer.ok]
    print(
        f"open: refused {len(refused)} times, then {answers[-1].error!r}; "
        f"{tally.requests} requests, {tally.failed} failed"
    )
    # The filters are first, by a moment: whether a request comes in between is chance.
    for answer in refused:
        assert (answer.status, answer.headers["x-legation-cause"]) == (403, "certificate_revoked")
    assert "revoked" in seen.lower()
    (removed,) = await _issuers(deployment, "removed")
    assert (removed["key_id"], removed["reason"]) == (old["key_id"], "cACompromise")
    # Pools that were opened with a certificate of the issuer are replaced at the same moment.
    assert tally.failed <= tally.requests // 20, tally.reasons


def _kept(identity: FetchedIdentity) -> FetchedIdentity:
    """Keep an identity as it is now; the agent replaces it where it lies."""
    copy = identity.credential.with_suffix(".stale")
    copy.touch(mode=0o600)
    copy.write_bytes(identity.credential.read_bytes())
    return dataclasses.replace(identity, credential=copy)


async def _issuers(deployment: Deployment, state: str) -> list[dict[str, str]]:
    page = await deployment.cli_json("issuer", "list")
    return [row for row in page["items"] if (row["role"], row["state"]) == ("issuing", state)]


async def _assert_all_of(deployment: Deployment, issuer: str) -> None:
    """Check that whatever the Envoys serve was signed by one issuer."""
    rows = (await deployment.cli_json("certificate", "in-force"))["items"]
    serving = {row["serial_in_force"] for row in rows if row["point"].startswith("envoy/")}
    assert len(serving) == 2, rows
    for name in ("api", "web"):
        page = await deployment.cli_json(
            "certificate", "list", "--spiffe-id", f"spiffe://{TRUST_DOMAIN}/{name}"
        )
        issuers = {row["issuer"] for row in page["items"] if row["serial"] in serving}
        assert issuers == {issuer}, name


def _presented(identity: FetchedIdentity) -> tuple[bytes, Callable[[], list[bytes]]]:
    leaf, *rest = (
        each.public_bytes(Encoding.DER)
        for each in load_pem_x509_certificates(identity.credential.read_bytes())
    )
    return leaf, lambda: rest


async def _refused_by_sdk(verifier: PeerVerifier, identity: FetchedIdentity) -> str:
    """Return the cause for which an SDK server refuses, once it does."""
    while True:
        try:
            verifier.verify(*_presented(identity))
        except PeerRefused as refused:
            return str(refused.cause)
        await asyncio.sleep(0.05)


async def _refused_by_envoy(port: int, identity: FetchedIdentity) -> str:
    """Return the alert with which Envoy refuses the handshake, once its lists say so.

    Before that the agent refuses, when it is asked about the connection, and that has no words;
    and an alert is lost when the request is written to a connection that is closed by then.
    """
    while True:
        answer = await call_once(port, context_of(identity), "/api/data")
        if "alert" in answer.error.lower():
            return answer.error
        await asyncio.sleep(0.05)


async def _status(port: int, identity: FetchedIdentity) -> int | None:
    return (await call_once(port, context_of(identity), "/api/data")).status
