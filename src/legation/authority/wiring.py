"""Puts the authority together. The one module that names a concrete store."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from legation.authority import initialisation
from legation.authority.administration.decoys import Decoys
from legation.authority.administration.drills import Drills
from legation.authority.administration.entries import Entries
from legation.authority.administration.inventory import Audit, Certificates
from legation.authority.administration.operators import Operators
from legation.authority.administration.policies import Policies
from legation.authority.administration.rotation import Rotations
from legation.authority.administration.staleness import StalenessPolicies
from legation.authority.agents.calls import certificate_calls, token_calls
from legation.authority.agents.expired import ExpiredAgents
from legation.authority.agents.freshness import FreshnessAlarms
from legation.authority.agents.http import AgentHTTP
from legation.authority.agents.kept import kept_calls
from legation.authority.agents.peer import AgentGate
from legation.authority.agents.rotation_calls import expired_calls, superseded_calls
from legation.authority.agents.sync import AgentStreams
from legation.authority.attestation.registration import node_attestors
from legation.authority.background import run_in_background
from legation.authority.core import Core, open_core
from legation.authority.data_directory import locked, prepare_directory
from legation.authority.enrolment import Enrolments, Tokens, Welcome
from legation.authority.events import EventBus
from legation.authority.initialisation import FirstOperator, Initialised
from legation.authority.issuers.changes import Issuers
from legation.authority.issuers.proof import Proof
from legation.authority.issuers.steps import IssuerSteps
from legation.authority.issuing.issuance import IssuanceService
from legation.authority.issuing.serving import ServingIdentity
from legation.authority.issuing.superseded import SupersededCertificates
from legation.authority.jwt import JWTIssuance, JWTKeys
from legation.authority.keystore import KeyEncryptionKey
from legation.authority.maintenance import Maintenance
from legation.authority.misuse.signals import MisuseSignals
from legation.authority.model import AUTHORITY_PATH
from legation.authority.ocsp import OCSPResponder, OCSPService, build_responder
from legation.authority.restoration import Restored, begin_anew
from legation.authority.revoking.crl_publisher import CRLPublisher
from legation.authority.revoking.recovery import Recovery
from legation.authority.revoking.revocation import Revocations
from legation.authority.services import Services
from legation.authority.settings import AuthoritySettings
from legation.authority.status import Status
from legation.authority.store import Store
from legation.authority.store.sqlite import SQLiteStore, replacement
from legation.clock import Clock
from legation.errors import InvalidInput
from legation.pki import SpiffeID


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A running authority.

    Attributes:
        services: what the REST, HTTP and command-line edges may ask.
        serving: the authority's own certificate, for further servers.
        agents: answers agents' requests, for the HTTPS listener.
        ocsp: answers questions about certificates, or None if that is off.
        events: what happens, for logs and metrics.
    """

    services: Services
    serving: ServingIdentity
    agents: AgentHTTP
    ocsp: OCSPService | None
    events: EventBus


async def initialise(
    settings: AuthoritySettings,
    *,
    clock: Clock,
    kek: KeyEncryptionKey,
    operator: FirstOperator,
) -> Initialised:
    """Begin a new authority in `settings.data_dir`.

    Raises:
        Conflict: there is one already, or one is running.
        InvalidInput: the directory or the operator's request is not acceptable.
        Unavailable: the directory cannot be written.
    """
    prepare_directory(settings.data_dir)
    with locked(settings.data_dir):
        store = await SQLiteStore.open(settings.database)
        try:
            return await initialisation.initialise(
                store, settings, clock=clock, kek=kek, operator=operator
            )
        finally:
            await store.close()


async def restore(
    settings: AuthoritySettings, *, clock: Clock, kek: KeyEncryptionKey, copy: Path | None = None
) -> Restored:
    """Go on from a copy of the store; the authority must not run.

    Args:
        settings: of the authority.
        clock: the time.
        kek: what opens the private keys in the copy.
        copy: a copy of the database; None if it is in its place in `settings.data_dir` already.

    Raises:
        NotFound: there is no such copy, or no authority in it.
        Conflict: the authority is running, or a newer version has written the copy.
        InvalidInput: the copy is damaged, or of another authority; the key-encryption key or
            the settings do not fit it.
        Unavailable: the directory or a file cannot be used.
    """
    prepare_directory(settings.data_dir)
    with (
        locked(settings.data_dir),
        replacement(settings.database, copy or settings.database, at=clock.now()) as files,
    ):
        store = await SQLiteStore.open(files.draft)
        try:
            core = await open_core(store, settings, clock=clock, kek=kek)
            return await begin_anew(
                store, core.hub, core.secrets.issuers, set_aside=files.set_aside, **core.shared
            )
        finally:
            await store.close()


@contextlib.asynccontextmanager
async def build(
    settings: AuthoritySettings, *, clock: Clock, kek: KeyEncryptionKey
) -> AsyncIterator[Authority]:
    """Start the authority of `settings.data_dir`; stop it gracefully on leaving.

    Raises:
        NotFound: no authority was initialised there.
        Conflict: one is running already, or a newer version has written the store.
        InvalidInput: the key-encryption key is not this authority's, or the settings do
            not fit what it has issued.
        Unavailable: the store or the agents' address cannot be used.
    """
    if not settings.data_dir.is_dir():
        raise InvalidInput(
            f"there is no directory {settings.data_dir}",
            remedy="run `legation server init` first",
        )
    prepare_directory(settings.data_dir)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(locked(settings.data_dir))
        store = await SQLiteStore.open(settings.database)
        stack.push_async_callback(store.close)
        yield await _start(stack, store, settings, clock=clock, kek=kek)


async def _start(
    stack: contextlib.AsyncExitStack,
    store: Store,
    settings: AuthoritySettings,
    *,
    clock: Clock,
    kek: KeyEncryptionKey,
) -> Authority:
    core = await open_core(store, settings, clock=clock, kek=kek)
    own_name = str(SpiffeID(settings.trust_domain, AUTHORITY_PATH))
    parts = await _parts(core, own_name)
    ocsp = _ocsp(stack, core, own_name)
    maintenance = Maintenance(core.hub, store, core.board, actor=own_name, **core.shared)
    for name, work in (
        ("revocation lists", parts.publisher.run),
        ("own certificate", parts.serving.run),
        ("keys for JWT-SVIDs", parts.jwt_keys.run),
        ("maintenance", maintenance.run),
        ("freshness", FreshnessAlarms(core.board.freshness, core.events).run),
        ("revocation", parts.revocations.run),
        ("misuse signals", parts.signals.run),
        ("issuers", parts.issuers.run),
    ):
        run_in_background(stack, name, work)
    status = _status(stack, core, parts)
    return Authority(
        services=_services(core, parts, status),
        serving=parts.serving,
        agents=_agent_http(core, parts, ocsp),
        ocsp=None if ocsp is None else ocsp.service,
        events=core.events,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """Services that others are made of, and that have to be in order before anyone is served."""

    publisher: CRLPublisher
    issuers: Issuers
    serving: ServingIdentity
    operators: Operators
    drills: Drills
    jwt_keys: JWTKeys
    revocations: Revocations
    rotations: Rotations
    signals: MisuseSignals


async def _parts(core: Core, own_name: str) -> _Parts:
    store, state = core.store, core.hub.state
    publisher = await _publisher(core, own_name)
    issuers = _issuers(core, publisher)
    await issuers.begin()  # without an issuer that may sign, nothing else begins
    serving = ServingIdentity(core.certifier, store, state, **core.shared)
    await serving.renew()
    operators = Operators(store, core.certifier, state, **core.shared)
    await operators.load()
    drills = Drills(store, **core.shared)
    await drills.load()
    jwt_keys = await _jwt_keys(core, own_name)
    revocations = Revocations(
        store,
        core.hub,
        core.traffic,
        own_keys=core.certifier.own_keys,
        tainted=issuers.look,
        **core.shared,
    )
    rotations = Rotations(core.hub, store, core.rotations, settings=core.settings, clock=core.clock)
    issuers.attach(serving=serving, rotations=rotations)
    core.hub.listen(publisher.listen)
    core.hub.listen(serving.listen)
    signals = MisuseSignals(store, state, revocations, **core.shared)
    await signals.load()
    return _Parts(
        publisher=publisher,
        issuers=issuers,
        serving=serving,
        operators=operators,
        drills=drills,
        jwt_keys=jwt_keys,
        revocations=revocations,
        rotations=rotations,
        signals=signals,
    )


async def _publisher(core: Core, actor: str) -> CRLPublisher:
    publisher = CRLPublisher(
        core.store,
        core.secrets.issuers,
        actor=actor,
        signer=core.secrets.signer,
        acknowledged=core.board.everywhere,
        **core.shared,
    )
    await publisher.load()
    return publisher


def _issuers(core: Core, publisher: CRLPublisher) -> Issuers:
    proof = Proof(core.store, core.hub, core.board, core.rotations, settings=core.settings)
    steps = IssuerSteps(
        core.store,
        proof,
        core.hub,
        core.secrets,
        certifier=core.certifier,
        publisher=publisher,
        **core.shared,
    )
    return Issuers(
        core.store,
        steps,
        proof,
        core.certifier,
        clock=core.clock,
        actor=SpiffeID(core.settings.trust_domain, AUTHORITY_PATH),
    )


def _status(stack: contextlib.AsyncExitStack, core: Core, parts: _Parts) -> Status:
    status = Status(
        core.hub,
        core.board,
        parts.publisher,
        parts.serving,
        core.secrets.issuers,
        settings=core.settings,
        clock=core.clock,
        store_problem=lambda: core.store.problem,
        drill=parts.drills.indicator,
        signing=lambda: core.certifier.issuer,
    )
    status.running = True
    stack.callback(setattr, status, "running", False)
    return status


def _ocsp(stack: contextlib.AsyncExitStack, core: Core, actor: str) -> OCSPResponder | None:
    if not core.settings.ocsp_enabled:
        return None
    responder = build_responder(
        core.store, core.hub, core.secrets.issuers, actor=actor, **core.shared
    )
    run_in_background(stack, "OCSP", responder.service.run)
    return responder


def _agent_http(core: Core, parts: _Parts, ocsp: OCSPResponder | None) -> AgentHTTP:
    gate = AgentGate(core.hub.state, core.board, settings=core.settings, clock=core.clock)
    issuance = IssuanceService(core.certifier, core.store, core.hub, **core.shared)
    superseded = SupersededCertificates(core.store, parts.revocations, clock=core.clock)
    feed_keys = (core.secrets.signer.public_key,)
    return AgentHTTP(
        gate,
        {
            **certificate_calls(issuance, feed_keys=feed_keys),
            **(ocsp.calls if ocsp else {}),
            **token_calls(JWTIssuance(parts.jwt_keys, core.store, core.hub, **core.shared)),
            **superseded_calls(superseded),
            **kept_calls(
                Recovery(
                    core.store,
                    core.hub,
                    feed_keys=feed_keys,
                    clock=core.clock,
                    actor=str(SpiffeID(core.settings.trust_domain, AUTHORITY_PATH)),
                    tainted=parts.issuers.look,
                )
            ),
        },
        sync=_agent_streams(core, gate, parts.signals).serve,
        open_calls=expired_calls(
            ExpiredAgents(core.certifier, core.store, core.hub.state, core.board, **core.shared),
            feed_keys=feed_keys,
        ),
    )


async def _jwt_keys(core: Core, actor: str) -> JWTKeys:
    keys = JWTKeys(
        core.store, core.hub, core.board, core.secrets.keystore, actor=actor, **core.shared
    )
    await keys.load(core.secrets.private_keys)
    return keys


def _agent_streams(core: Core, gate: AgentGate, signals: MisuseSignals) -> AgentStreams:
    streams = AgentStreams(
        gate,
        core.hub,
        core.board,
        rotations=core.rotations,
        traffic=core.traffic,
        seen=signals,
        **core.shared,
    )
    core.hub.listen(streams.listen)
    return streams


def _services(core: Core, parts: _Parts, status: Status) -> Services:
    store, hub, certifier = core.store, core.hub, core.certifier
    return Services(
        entries=Entries(hub, store, settings=core.settings, clock=core.clock),
        tokens=Tokens(store, hub.state, settings=core.settings, clock=core.clock),
        policies=Policies(hub, store, clock=core.clock),
        staleness=StalenessPolicies(hub, store, clock=core.clock),
        certificates=Certificates(store, clock=core.clock),
        revocations=parts.revocations,
        propagation=core.board,
        rotations=parts.rotations,
        issuers=parts.issuers,
        operators=parts.operators,
        decoys=Decoys(certifier, store, **core.shared),
        drills=parts.drills,
        signals=parts.signals,
        audit=Audit(store),
        enrolment=Enrolments(
            store,
            certifier,
            attestors=node_attestors(
                core.settings.attestation,
                store=store,
                challenges=core.challenges,
                trust_domain=core.settings.trust_domain,
                clock=core.clock,
            ),
            challenges=core.challenges,
            welcome=lambda: Welcome(
                bundle=status.bundle_document(),
                feed_keys=(core.secrets.signer.public_key,),
            ),
            joined=core.board.enrolled,
            **core.shared,
        ),
        status=status,
    )
