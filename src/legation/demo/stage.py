"""What the demo's chapters share: the cast, and how it comes on stage."""

import asyncio
import ssl
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from legation.clock import Clock
from legation.config.ports import unused_port
from legation.demo.callers import client_context
from legation.demo.deployment import AGENT_NAME, TRUST_DOMAIN, Deployment, ProxyHandle
from legation.demo.processes import listening
from legation.demo.transcript import Transcript
from legation.demo.workload import FetchedIdentity, fetch_identities
from legation.errors import LegationError

API = f"spiffe://{TRUST_DOMAIN}/api"
WEB = f"spiffe://{TRUST_DOMAIN}/web"
PARTNER = f"spiffe://{TRUST_DOMAIN}/partner"
REPORTS = f"spiffe://{TRUST_DOMAIN}/reports"
BATCH = f"spiffe://{TRUST_DOMAIN}/batch"
BRIEF = f"spiffe://{TRUST_DOMAIN}/brief"

ROTATING_LIFETIME = "4s"
STEADY_LIFETIME = "1h"
BRIEF_LIFETIME_S = 3

POLICIES = f"""\
apiVersion: legation/v1
kind: AuthorizationPolicy
metadata:
  name: callers-of-api
spec:
  target: {{spiffeIDs: ["{API}"]}}
  action: ALLOW
  rules:
    - from: [{{spiffeIDs: ["{WEB}", "{PARTNER}", "{REPORTS}", "{BATCH}"]}}]
      to: [{{methods: [GET, POST], paths: ["/api/*"]}}]
---
apiVersion: legation/v1
kind: AuthorizationPolicy
metadata:
  name: no-data-for-batch
spec:
  target: {{spiffeIDs: ["{API}"]}}
  action: DENY
  rules:
    - from: [{{spiffeIDs: ["{BATCH}"]}}]
      to: [{{paths: ["/api/data"]}}]
"""


@dataclass(slots=True, kw_only=True)
class Stage:
    """What the chapters share."""

    deployment: Deployment
    transcript: Transcript
    clock: Clock
    inbound: int = field(default_factory=unused_port)  # the API's mutual-TLS port
    outbound: int = field(default_factory=unused_port)  # where the web service calls the API
    api_port: int = field(default_factory=unused_port)
    web_port: int = field(default_factory=unused_port)
    api_proxy: ProxyHandle | None = None
    identities: dict[str, FetchedIdentity] = field(default_factory=dict)

    def context(self, spiffe_id: str, *alpn: str) -> ssl.SSLContext:
        """Build a TLS context that shows `spiffe_id`."""
        identity = self.identities[spiffe_id]
        return client_context(
            authorities_pem=identity.bundle_pem,
            credential=identity.credential,
            alpn=alpn or ("http/1.1",),
        )


def own_selector() -> str:
    """Return the selector that every process of this Python executable shows."""
    return f"unix:path:{Path('/proc/self/exe').readlink()}"


async def create_entries(deployment: Deployment) -> None:
    """Say which process gets which identity."""
    caller = own_selector()
    entries = (
        ("api", f"unix:path:{deployment.envoy_path('api')}", ROTATING_LIFETIME),
        ("web", f"unix:path:{deployment.envoy_path('web')}", ROTATING_LIFETIME),
        ("partner", caller, STEADY_LIFETIME),
        ("reports", caller, STEADY_LIFETIME),
        ("batch", caller, STEADY_LIFETIME),
        ("brief", caller, f"{BRIEF_LIFETIME_S}s"),
    )
    for name, selector, lifetime in entries:
        await deployment.cli(
            "entry", "create", "--id", name, "--spiffe-id", f"spiffe://{TRUST_DOMAIN}/{name}",
            "--selector", selector, "--agent", AGENT_NAME, "--lifetime", lifetime,
        )  # fmt: skip


async def start_services(stage: Stage) -> None:
    """Start the two services, each behind its Envoy."""
    run = [sys.executable, "-m", "legation.demo.apps"]
    deployment = stage.deployment
    api = await deployment.spawn("api", [*run, "api", str(stage.api_port)])
    web = await deployment.spawn("web", [*run, "web", str(stage.web_port), str(stage.outbound)])
    stage.api_proxy, _ = await asyncio.gather(
        deployment.start_proxy(
            "api", inbound=[f"127.0.0.1:{stage.inbound}=127.0.0.1:{stage.api_port}"]
        ),
        deployment.start_proxy(
            "web", outbound=[f"127.0.0.1:{stage.outbound}={API}@127.0.0.1:{stage.inbound}"]
        ),
    )
    for child, port in ((api, stage.api_port), (web, stage.web_port)):
        await child.wait_until(partial(listening, port), what="its port")


async def fetch_all(stage: Stage) -> dict[str, FetchedIdentity]:
    """Fetch the identities of this process, as any workload would."""
    directory = stage.deployment.directory / "callers"
    directory.mkdir(mode=0o700)
    wanted = {PARTNER, REPORTS, BATCH, BRIEF}
    for _ in range(100):
        found_ids = await fetch_identities(stage.deployment.socket, directory)
        if wanted <= found_ids.keys():
            return found_ids
        await asyncio.sleep(0.05)
    raise LegationError(f"the agent gave {sorted(found_ids)} only")
