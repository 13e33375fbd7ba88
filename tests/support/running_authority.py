"""The real authority in this process: its services, the agents' port and the REST interface."""

import contextlib
import hashlib
from pathlib import Path

from legation.agent.enrolment import EnrolmentRequest
from legation.authority.http_server import HTTPServer
from legation.authority.https import ServingTLS
from legation.authority.initialisation import FirstOperator
from legation.authority.keystore import RawKey
from legation.authority.model import Actor, Role
from legation.authority.rest.application import build_application
from legation.authority.settings import AuthoritySettings
from legation.authority.wiring import build, initialise
from legation.clock import SystemClock
from legation.pki import SpiffeID, TrustDomain, build_request, certificate_from_der, generate_key

TRUST_DOMAIN = TrustDomain("example.org")
AGENT_ID = SpiffeID(TRUST_DOMAIN, "/legation/agent/one")
ADMIN = Actor(spiffe_id=SpiffeID(TRUST_DOMAIN, "/legation/operator/admin"), role=Role.ADMIN)


class RunningAuthority:
    """An authority below one directory; it can be stopped and started again.

    Attributes:
        services: of `legation.authority.model`, while it runs.
        root: the root certificate.
        api_port: of the REST interface; the same after a restart.
    """

    def __init__(self, directory: Path, **settings):
        self._settings = {"heartbeat_s": 0.2, "backdate_s": 0, **settings}
        self._directory = directory
        self._clock = SystemClock()
        self._kek = RawKey(bytes(range(32)))
        self._stack = contextlib.AsyncExitStack()
        self.agents_port = 0
        self.api_port = 0

    @property
    def settings(self):
        return AuthoritySettings(
            trust_domain=TRUST_DOMAIN,
            data_dir=self._directory,
            agents_port=self.agents_port,
            **self._settings,
        )

    async def initialise(self):
        csr = build_request(generate_key())
        begun = await initialise(
            self.settings,
            clock=self._clock,
            kek=self._kek,
            operator=FirstOperator(name="admin", csr=csr),
        )
        self.root = certificate_from_der(begun.root)
        self.fingerprint = hashlib.sha256(begun.root).hexdigest()

    async def start(self):
        authority = await self._stack.enter_async_context(
            build(self.settings, clock=self._clock, kek=self._kek)
        )
        self.services = authority.services
        self.agents_port = authority.agents_port
        credentials = authority.serving.credentials
        tls = ServingTLS(
            certificates_pem=credentials.certificates_pem,
            key_pem=credentials.key_pem,
            authorities_pem=credentials.authorities_pem,
        )
        api = HTTPServer(
            build_application(authority.services, clock=self._clock),
            host="127.0.0.1",
            port=self.api_port,
            tls=tls,
        )
        await api.start()
        self._stack.push_async_callback(api.stop)
        self.api_port = api.port

    async def stop(self):
        await self._stack.aclose()

    async def __aenter__(self):
        await self.initialise()
        await self.start()
        return self

    async def __aexit__(self, *_):
        await self.stop()

    async def invitation(self, agent=AGENT_ID, **fields):
        """Return what a new agent needs to enrol, pinned by the root's fingerprint."""
        _, token = await self.services.tokens.create(agent, lifetime_s=600, actor=ADMIN)
        defaults = {"authority": f"127.0.0.1:{self.api_port}", "fingerprint": self.fingerprint}
        return EnrolmentRequest(**{"token": token, **defaults, **fields})

    async def put_entry(self, path="/api", *, selectors=("unix:uid:0",), **fields):
        return await self.services.entries.create(
            {
                "spiffe_id": f"spiffe://{TRUST_DOMAIN}{path}",
                "selectors": list(selectors),
                "agents": [str(AGENT_ID)],
                **fields,
            },
            actor=ADMIN,
        )

    def acknowledged(self, revision):
        """Tell whether every point behind the agent has `revision` in force."""
        points = self.services.propagation.points()
        return bool(points) and all(point.revision >= revision for point in points)

    async def until_acknowledged(self, revision):
        while not self.acknowledged(revision):
            await self.services.propagation.wait_for_change(timeout_s=5)
