"""From an agent's configuration to a running agent."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from legation.agent.attestation.containerd import ContainerdSettings
from legation.agent.attestation.docker import DockerSettings
from legation.agent.attestation.registration import AttestationSettings
from legation.agent.attestation.systemd import SystemdSettings
from legation.agent.enrolment import EnrolmentRequest
from legation.agent.identities.schedule import RenewalTiming
from legation.agent.identity import IdentityStore
from legation.agent.private_files import read_bounded
from legation.agent.wiring import Agent, AgentSettings
from legation.cli.agent_evidence import evidence_of
from legation.cli.configured import Flags, log_as, read_config, reload_log_level
from legation.cli.supervision import Supervision, run
from legation.clock import SystemClock
from legation.config import AgentConfig, Loaded
from legation.config.attestation import WorkloadAttestation
from legation.config.loader import DEFAULT
from legation.config.values import Address
from legation.errors import Conflict
from legation.pki import certificates_from_pem

_MAX_BUNDLE = 1 << 20


def run_agent(config_file: Path | None, flags: Flags) -> None:
    """Run the agent until it is told to stop.

    Raises:
        LegationError: the configuration, the enrolment or the socket fails.
    """
    loaded = read_config(AgentConfig, config_file, flags)
    config = loaded.config
    log_as(config)

    async def serve(supervision: Supervision) -> None:
        reload_log_level(supervision, AgentConfig, config_file, flags)
        agent = await Agent.open(settings_of(loaded))
        joined = agent.own.identity.spiffe_id.trust_domain
        if config.trust_domain not in {None, joined}:
            raise Conflict(
                f"this agent belongs to {joined}, the configuration names {config.trust_domain}",
                remedy=f"correct trust_domain, or enrol anew with an empty {config.data_dir}",
            )
        async with agent, _metrics(agent, config.listen.metrics) as shown:
            supervision.ready(f"{agent.own.identity.spiffe_id} on {config.socket.path}{shown}")
            await supervision.stop.wait()

    run(serve)


@contextlib.asynccontextmanager
async def _metrics(agent: Agent, at: Address | None) -> AsyncIterator[str]:
    """Serve metrics if an address for them is configured; yields what to say of it."""
    if at is None:
        yield ""
        return
    from legation.observe.agent import agent_metrics  # nobody else needs its library

    async with agent_metrics(agent, at, clock=SystemClock()) as port:
        yield f", metrics on port {port}"


def settings_of(loaded: Loaded[AgentConfig]) -> AgentSettings:
    """Translate the configuration; secrets are read only when the agent must enrol.

    Raises:
        NotFound: it must enrol, and there is no token, or a file is missing.
        InvalidInput: a file is not what it should be.
    """
    config = loaded.config
    enrolled = IdentityStore(config.data_dir).enrolled
    return AgentSettings(
        data_dir=config.data_dir,
        socket=config.socket.path,
        enrolment=None if enrolled else enrolment_of(config),
        # Unless told otherwise, the agent stays with the addresses that it enrolled under.
        api=config.server.api if loaded.origins["server.api"] != DEFAULT else None,
        socket_mode=config.socket.mode,
        socket_group=config.socket.group,
        attestation=_attestation(config.attestation),
        sinks=config.sink,
        timing=RenewalTiming(
            renew_at_remaining=config.rotation.renew_at_remaining,
            spread=config.rotation.jitter,
            freezes=config.rotation.freeze,
        ),
        revoke_replaced=config.rotation.revoke_replaced,
    )


def _attestation(config: WorkloadAttestation) -> AttestationSettings:
    systemd, docker, containerd = config.systemd, config.docker, config.containerd
    return AttestationSettings(
        systemd=SystemdSettings(bus=systemd.bus, time_limit_s=systemd.time_limit.total_seconds())
        if systemd.enabled
        else None,
        docker=DockerSettings(socket=docker.socket, time_limit_s=docker.time_limit.total_seconds())
        if docker.enabled
        else None,
        containerd=ContainerdSettings(
            socket=containerd.socket,
            namespaces=containerd.namespaces,
            time_limit_s=containerd.time_limit.total_seconds(),
        )
        if containerd.enabled
        else None,
    )


def enrolment_of(config: AgentConfig) -> EnrolmentRequest:
    """Return what an agent enrols with.

    Raises:
        NotFound: there is no token, or a file is missing.
        InvalidInput: a file is not what it should be.
    """
    bundle = config.trust_bundle_file
    return EnrolmentRequest(
        authority=str(config.server.api),
        evidence=evidence_of(config),
        authorities=certificates_from_pem(read_bounded(bundle, limit=_MAX_BUNDLE))
        if bundle
        else (),
        fingerprint=(config.ca_fingerprint or "").removeprefix("sha256:") or None,
    )
