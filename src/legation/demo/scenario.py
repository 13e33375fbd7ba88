"""The story that the demo tells, one chapter a function."""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from legation.clock import Clock, from_rfc3339
from legation.demo import stranger
from legation.demo.admin import envoy_stats
from legation.demo.callers import (
    Answer,
    Connection,
    HTTP1Connection,
    HTTP2Connection,
    Load,
    call_once,
    client_context,
    until_refused,
)
from legation.demo.deployment import AGENT_NAME, TRUST_DOMAIN
from legation.demo.stage import (
    API,
    BATCH,
    BRIEF,
    PARTNER,
    POLICIES,
    REPORTS,
    ROTATING_LIFETIME,
    STEADY_LIFETIME,
    WEB,
    Stage,
    create_entries,
    fetch_all,
    start_services,
)
from legation.errors import LegationError


async def play(stage: Stage, *, rotation_s: float = 10.0, outage_s: float = 3.0) -> None:
    """Play every chapter, in order.

    Raises:
        LegationError: something that must hold did not.
    """
    started = time.perf_counter()
    await found(stage)
    await call(stage)
    await refuse_strangers(stage)
    await refuse_by_policy(stage)
    await rotate(stage, seconds=rotation_s)
    await revoke(stage)
    await lose_authority(stage, seconds=outage_s)
    total = time.perf_counter() - started
    stage.transcript.figure("total_s", total)
    stage.transcript.title(f"All of it held, in {total:.1f} s.")


async def found(stage: Stage) -> None:
    """Start everything and give every workload its identity."""
    say, deployment = stage.transcript, stage.deployment
    say.title("1. An authority, an agent, two services behind Envoy")
    await deployment.start()
    say.line(f"authority for {TRUST_DOMAIN} on SQLite; agent {AGENT_NAME} joined with a token")
    await create_entries(deployment)
    await deployment.cli("policy", "apply", "-f", "-", input_text=POLICIES)
    await start_services(stage)
    stage.identities = await fetch_all(stage)
    issued = await deployment.cli_json("certificate", "list", "--limit", "1000")
    count = len(issued["items"])
    say.figure("identities.issued", count)
    say.line(f"{count} certificates issued, each for a key made where it is used:")
    for name, text in ((API, ROTATING_LIFETIME), (WEB, ROTATING_LIFETIME), (PARTNER, "1h")):
        say.line(f"  {name}  lifetime {text}")


async def call(stage: Stage) -> None:
    """Show one call that works, and what protected it."""
    say = stage.transcript
    say.title("2. A call that works, though neither service knows of TLS")
    page = await call_once(stage.web_port, None, "/")
    _must(page.ok, f"the web page answered {page.status} {page.error}")
    seen = dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", page.body.decode()))
    caller = seen["the API verified this caller"]
    _must(caller == WEB, f"the API saw {caller!r} instead of {WEB}")
    version, group = await _tls_facts(stage)
    say.line(f"GET http://127.0.0.1:{stage.web_port}/ -> 200, message {seen['message']!r}")
    say.line(f"{WEB} -> {API}, both verified, certificates live {ROTATING_LIFETIME}")
    say.line(f"{version}, key exchange {group}")
    say.figure("call.status", 200)
    say.figure("tls.version", version)
    say.figure("tls.group", group)


async def refuse_strangers(stage: Stage) -> None:
    """Show that no certificate, a foreign one and an expired one are refused, and why."""
    say = stage.transcript
    say.title("3. Strangers are refused, each for its reason")
    bundle = stage.identities[REPORTS].bundle_pem
    forged = stranger.credential_of_another_authority(
        WEB, stage.deployment.directory / "forged.pem", now=stage.clock.now()
    )
    brief = stage.identities[BRIEF]
    left = brief.not_after - stage.clock.now()
    await asyncio.sleep(max(0.0, left.total_seconds()) + 0.1)  # until its time is over
    cases = (
        ("without a certificate", None, "no_client_certificate"),
        ("with another authority's certificate", forged, "unknown_authority"),
        ("with an expired certificate", brief.credential, "certificate_expired"),
    )
    for words, credential, cause in cases:
        context = client_context(authorities_pem=bundle, credential=credential)
        answer = await call_once(stage.inbound, context, "/api/data")
        _must(not answer.ok, f"a stranger {words} was served")
        await _refusal_known(stage, cause)
        say.line(f"{words}: refused, {cause}  (the peer saw: {answer.error})")
        say.figure(f"refused.{cause}", True)


async def refuse_by_policy(stage: Stage) -> None:
    """Show that identity is not permission."""
    say = stage.transcript
    say.title("4. A known identity that policy does not allow")
    answer = await call_once(stage.inbound, stage.context(BATCH), "/api/data")
    _must(answer.status == 403, f"{BATCH} got {answer.status} {answer.error}")
    told = json.loads(answer.body)
    _must(told["policy"] == "no-data-for-batch", f"the refusal named {told['policy']!r}")
    health = await call_once(stage.inbound, stage.context(BATCH), "/api/health")
    _must(health.ok, f"{BATCH} got {health.status} for /api/health")
    say.line(f"{BATCH} GET /api/data -> 403 {told['cause']}, policy {told['policy']}")
    say.line(f"{BATCH} GET /api/health -> 200")
    say.figure("policy.refused_by", told["policy"])


async def rotate(stage: Stage, *, seconds: float) -> None:
    """Let both sides rotate under load."""
    say = stage.transcript
    say.title("5. Both sides rotate under load")
    before = await _issued(stage, API, WEB)
    load = Load()
    for _ in range(2):
        load.keep_alive(partial(HTTP1Connection.open, stage.outbound), "/api/data")
    load.keep_alive(partial(HTTP1Connection.open, stage.outbound), "/api/data", per_connection=1)
    load.keep_alive(partial(HTTP2Connection.open, stage.outbound), "/api/data")
    load.keep_alive(
        partial(HTTP1Connection.open, stage.inbound, stage.context(REPORTS)),
        "/api/data",
        per_connection=1,
        pause_s=0.01,
    )
    await asyncio.sleep(seconds)
    tally = await load.stop()
    rotations = await _issued(stage, API, WEB) - before
    say.line(
        f"{rotations} rotations in {seconds:g} s; {tally.requests} requests on kept-alive, new "
        f"and HTTP/2 connections, {tally.failed} failed"
    )
    say.figure("rotation.rotations", rotations)
    say.figure("rotation.requests", tally.requests)
    say.figure("rotation.failed", tally.failed)
    _must(tally.failed == 0, f"requests failed during rotation: {tally.reasons}")
    _must(rotations > 0, "nothing rotated")


async def revoke(stage: Stage) -> None:
    """Revoke one identity and watch from outside when it is refused."""
    say = stage.transcript
    say.title("6. One identity turns bad")
    attempts = await _open_connections(stage)
    bystander = Load()
    reports = stage.context(REPORTS)
    bystander.keep_alive(partial(HTTP1Connection.open, stage.inbound, reports), "/api/data")
    bystander.keep_alive(
        partial(HTTP1Connection.open, stage.inbound, reports), "/api/data", per_connection=1
    )
    watchers = {
        name: asyncio.create_task(_first_refusal(stage.clock, attempt))
        for name, attempt in attempts.items()
    }
    outcome = await stage.deployment.cli_json(
        "revoke", "--identity", PARTNER, "--reason", "keyCompromise", "--wait"
    )
    recorded = from_rfc3339(outcome["at"])
    refusals = {name: await watcher for name, watcher in watchers.items()}
    tally = await bystander.stop()
    say.line(f"legation revoke --identity {PARTNER} --reason keyCompromise --wait")
    for point in outcome["points"]:
        say.line(
            f"  {point['kind']} {point['id']}: in force after {point['after_ms']:.1f} ms"
            f"{_noted(point)}"
        )
    for name, (moment, answer) in refusals.items():
        passed = (moment - recorded) / timedelta(milliseconds=1)
        say.line(f"{name.replace('_', ' ')}: refused after {passed:.1f} ms  ({_shown(answer)})")
        say.figure(f"revocation.{name}_ms", passed)
    say.line(f"another caller meanwhile: {tally.requests} requests, {tally.failed} failed")
    say.figure("revocation.bystander_requests", tally.requests)
    say.figure("revocation.bystander_failed", tally.failed)
    _must(tally.failed == 0, f"a bystander was harmed: {tally.reasons}")


async def lose_authority(stage: Stage, *, seconds: float) -> None:
    """Kill the authority; calls go on."""
    say, deployment = stage.transcript, stage.deployment
    say.title("7. The authority dies; calls go on")
    for name in ("api", "web"):
        await deployment.cli("entry", "update", name, "--lifetime", STEADY_LIFETIME)
    await _served_lifetime(stage, minimum_s=3000)
    await deployment.kill_authority()
    load = Load()
    load.keep_alive(partial(HTTP1Connection.open, stage.outbound), "/api/data")
    load.keep_alive(
        partial(HTTP1Connection.open, stage.inbound, stage.context(REPORTS)),
        "/api/data",
        per_connection=1,
    )
    await asyncio.sleep(seconds)
    tally = await load.stop()
    say.line(
        f"SIGKILL to the authority; {tally.requests} requests in {seconds:g} s, "
        f"{tally.failed} failed"
    )
    say.figure("outage.requests", tally.requests)
    say.figure("outage.failed", tally.failed)
    _must(tally.failed == 0, f"requests failed during the outage: {tally.reasons}")
    began = time.perf_counter()
    await deployment.start_authority()
    say.line(f"authority back after {time.perf_counter() - began:.1f} s, nothing lost")


async def _tls_facts(stage: Stage) -> tuple[str, str]:
    if stage.api_proxy is None:
        raise LegationError("the API has no proxy yet")
    stats = await asyncio.to_thread(envoy_stats, stage.api_proxy.admin, r"listener\..*ssl\.")
    version = _named(stats, r"\.ssl\.versions\.(.+)")
    group = _named(stats, r"\.ssl\.curves\.(.+)")
    return version, group


def _named(stats: dict[str, int], pattern: str) -> str:
    counted = [
        (value, found[1])
        for name, value in stats.items()
        if value and (found := re.search(pattern, name))
    ]
    _must(bool(counted), f"Envoy counted no {pattern}")
    return max(counted)[1]


async def _refusal_known(stage: Stage, cause: str) -> None:
    """Wait until the agent names `cause` for a handshake that Envoy refused."""
    for _ in range(100):
        status = await stage.deployment.cli_json("status", "--agent", str(stage.deployment.socket))
        if any(refusal["cause"] == cause for refusal in status["refusals"]):
            return
        await asyncio.sleep(0.05)
    raise LegationError(f"no refusal for {cause} was reported")


async def _issued(stage: Stage, *spiffe_ids: str) -> int:
    total = 0
    for spiffe_id in spiffe_ids:
        page = await stage.deployment.cli_json(
            "certificate", "list", "--spiffe-id", spiffe_id, "--limit", "1000"
        )
        total += len(page["items"])
    return total


Attempt = Callable[[], Awaitable[Answer]]


async def _open_connections(stage: Stage) -> dict[str, Attempt]:
    """Open connections as the identity that will be revoked, and use each once."""
    http1: Connection = await HTTP1Connection.open(stage.inbound, stage.context(PARTNER))
    http2: Connection = await HTTP2Connection.open(stage.inbound, stage.context(PARTNER, "h2"))
    context = stage.context(PARTNER)
    attempts: dict[str, Attempt] = {
        "new_handshake": partial(call_once, stage.inbound, context, "/api/data"),
        "open_http1": partial(http1.get, "/api/data"),
        "open_http2": partial(http2.get, "/api/data"),
    }
    for name, attempt in attempts.items():
        answer = await attempt()
        _must(answer.ok, f"{PARTNER} {name}: {answer.status} {answer.error}")
    return attempts


async def _first_refusal(clock: Clock, attempt: Attempt) -> tuple[datetime, Answer]:
    _, answer = await until_refused(attempt, since=time.perf_counter(), timeout_s=30)
    return clock.now(), answer


async def _served_lifetime(stage: Stage, *, minimum_s: float) -> None:
    for _ in range(200):
        connection = await HTTP1Connection.open(stage.inbound, stage.context(REPORTS))
        tls = connection.tls
        certificate = (tls.getpeercert() if tls else None) or {}
        connection.close()
        if stranger.remaining_s(certificate, stage.clock.now()) > minimum_s:
            return
        await asyncio.sleep(0.05)
    raise LegationError("the longer certificate never came into force")


def _noted(point: dict[str, Any]) -> str:
    return f" ({'; '.join(point['notes'])})" if point.get("notes") else ""


def _shown(answer: Answer) -> str:
    if answer.status is None:
        return answer.error
    return f"{answer.status} {json.loads(answer.body)['cause']}"


def _must(held: bool, otherwise: str) -> None:
    if not held:
        raise LegationError(f"the demo failed: {otherwise}")
