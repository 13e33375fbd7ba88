"""Enrolling an agent without running it, for the first time or again."""

import asyncio
from dataclasses import replace
from pathlib import Path

from legation.agent.enrolment import enrol
from legation.agent.identity import AgentIdentity, IdentityStore
from legation.agent.private_files import make_private_directory
from legation.cli.configured import Flags, read_config
from legation.cli.run_agent import enrolment_of
from legation.clock import SystemClock
from legation.config import AgentConfig
from legation.config.loader import DEFAULT
from legation.errors import Conflict


def enrol_agent(config_file: Path | None, flags: Flags, *, again: bool) -> AgentIdentity:
    """Enrol, and leave the identity where the agent looks for it.

    An agent that runs, and whose own certificate has expired, takes it up by itself.

    Args:
        config_file: the configuration.
        flags: of the command line.
        again: replace the identity that is there. It must be the same agent's: what it trusts
            and where it asks is taken from what it knew, unless something else is configured.

    Raises:
        Conflict: there is an identity and `again` is False, or the new one is another agent's.
        LegationError: as `legation.agent.enrolment.enrol`.
    """
    loaded = read_config(AgentConfig, config_file, flags)
    config = loaded.config
    make_private_directory(config.data_dir)
    store = IdentityStore(config.data_dir)
    if store.enrolled and not again:
        raise Conflict(
            f"there is an agent's identity in {config.data_dir} already",
            remedy="give --again to replace it",
        )
    request = enrolment_of(config)
    known = None
    if store.enrolled:
        known, membership = store.load()
        if loaded.origins["server.api"] == DEFAULT:
            where = f"{membership.authority}:{membership.api_port}"
            request = replace(request, authority=where)
        if not request.authorities and request.fingerprint is None:
            request = replace(request, authorities=membership.bundle.x509_authorities)
    identity, membership = asyncio.run(enrol(request, clock=SystemClock()))
    if known is not None and known.spiffe_id != identity.spiffe_id:
        raise Conflict(
            f"the token is for {identity.spiffe_id}, this agent is {known.spiffe_id}",
            remedy="make a token for this agent: `legation token create`",
        )
    store.save_enrolment(identity, membership)
    return identity
