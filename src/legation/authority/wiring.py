"""Puts the authority together. The one module that names a concrete store."""

import asyncio
import contextlib
import fcntl
import logging
import os
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from legation.authority import initialisation
from legation.authority.agent_api import AgentAPI, AgentServer
from legation.authority.certifier import Certifier
from legation.authority.crl_publisher import CRLPublisher
from legation.authority.enrolment import Enrolments, Tokens, Welcome
from legation.authority.entries import Entries
from legation.authority.events import EventBus, EventLog
from legation.authority.feed import FeedHub
from legation.authority.initialisation import FirstOperator, Initialised
from legation.authority.inventory import Audit, Certificates
from legation.authority.issuance import IssuanceService
from legation.authority.keystore import (
    ISSUING_KEY,
    KeyEncryptionKey,
    KeyStore,
    feed_key,
)
from legation.authority.maintenance import Maintenance
from legation.authority.model import AUTHORITY_PATH, Services
from legation.authority.moments import stamp
from legation.authority.operators import Operators
from legation.authority.policies import Policies
from legation.authority.propagation import PropagationBoard
from legation.authority.revocation import Revocations
from legation.authority.serials import SerialAllocator
from legation.authority.serving import ServingIdentity
from legation.authority.settings import AuthoritySettings
from legation.authority.status import Status
from legation.authority.store import AuditDraft, IssuerRecord, Store
from legation.authority.store.sqlite import SQLiteStore
from legation.clock import Clock
from legation.errors import Conflict, InternalError, InvalidInput, Unavailable
from legation.pki import Issuer, PrivateKey, SpiffeID, certificate_from_der
from legation.wire.feed import FeedSigner

_STOP_GRACE_S = 3.0
_RESTART_S = 1.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A running authority.

    Attributes:
        services: what the REST, HTTP and command-line edges may ask.
        serving: the authority's own certificate, for further servers.
        events: what happens, for logs and metrics.
        agents_port: where agents connect.
    """

    services: Services
    serving: ServingIdentity
    events: EventBus
    agents_port: int


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
    _prepare_directory(settings.data_dir)
    with _locked(settings.data_dir):
        store = await SQLiteStore.open(settings.database)
        try:
            return await initialisation.initialise(
                store, settings, clock=clock, kek=kek, operator=operator
            )
        finally:
            await store.close()


async def begin_new_feed(settings: AuthoritySettings, *, clock: Clock) -> None:
    """Begin a new feed in a store that was restored from a copy.

    Agents have seen what followed the copy, and refuse a feed that goes back: it would make
    them forget revocations. Revoke again what was revoked since, then call this, while the
    authority does not run.

    Raises:
        NotFound: no authority was initialised there.
        Conflict: the authority is running.
        InvalidInput, Unavailable: the directory or the store cannot be used.
    """
    _prepare_directory(settings.data_dir)
    with _locked(settings.data_dir):
        store = await SQLiteStore.open(settings.database)
        try:
            own_name = str(SpiffeID(settings.trust_domain, AUTHORITY_PATH))
            audit = AuditDraft(
                time=stamp(clock), actor=own_name, action="feed.begin", subject=own_name
            )
            await store.begin_feed(secrets.token_hex(16), audit=audit)
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
    _prepare_directory(settings.data_dir)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(_locked(settings.data_dir))
        store = await SQLiteStore.open(settings.database)
        stack.push_async_callback(store.close)
        yield await _start(stack, store, settings, clock=clock, kek=kek)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Secrets:
    """What the key-encryption key opens."""

    issuers: Mapping[str, Issuer]
    issuing: Issuer
    signer: FeedSigner


@dataclass(frozen=True, slots=True, kw_only=True)
class _Core:
    """What every service is made of."""

    settings: AuthoritySettings
    clock: Clock
    events: EventBus
    store: Store
    secrets: _Secrets
    hub: FeedHub
    board: PropagationBoard
    certifier: Certifier


async def _start(
    stack: contextlib.AsyncExitStack,
    store: Store,
    settings: AuthoritySettings,
    *,
    clock: Clock,
    kek: KeyEncryptionKey,
) -> Authority:
    core = await _core(store, settings, clock=clock, kek=kek)
    shared = _Shared(settings=settings, clock=clock, events=core.events)
    issuers, state = core.secrets.issuers, core.hub.state
    own_name = str(SpiffeID(settings.trust_domain, AUTHORITY_PATH))
    publisher = CRLPublisher(store, issuers, actor=own_name, **shared)
    await publisher.load()
    serving = ServingIdentity(core.certifier, store, state, **shared)
    await serving.renew()
    operators = Operators(store, core.certifier, state, **shared)
    await operators.load()
    core.hub.listen(publisher.listen)
    core.hub.listen(serving.listen)
    server = await _agent_server(stack, core, serving)
    maintenance = Maintenance(core.hub, store, **shared)
    for name, work in (
        ("revocation lists", publisher.run),
        ("own certificate", serving.run),
        ("maintenance", maintenance.run),
    ):
        _in_background(stack, name, work)
    status = Status(
        core.hub,
        core.board,
        publisher,
        serving,
        issuers,
        settings=settings,
        clock=clock,
        store_problem=lambda: core.store.problem,
    )
    status.running = True
    stack.callback(setattr, status, "running", False)
    return Authority(
        services=_services(core, status, operators, agents_port=server.port),
        serving=serving,
        events=core.events,
        agents_port=server.port,
    )


async def _agent_server(
    stack: contextlib.AsyncExitStack, core: _Core, serving: ServingIdentity
) -> AgentServer:
    shared = _Shared(settings=core.settings, clock=core.clock, events=core.events)
    api = AgentAPI(
        IssuanceService(core.certifier, core.store, core.hub, **shared),
        core.hub,
        core.board,
        feed_keys=(core.secrets.signer.public_key,),
        **shared,
    )
    core.hub.listen(api.listen)
    server = AgentServer(api, serving, settings=core.settings)
    await server.start()
    stack.push_async_callback(server.stop, grace_s=_STOP_GRACE_S)
    return server


class _Shared(TypedDict):
    """What nearly every part takes."""

    settings: AuthoritySettings
    clock: Clock
    events: EventBus


async def _core(
    store: Store, settings: AuthoritySettings, *, clock: Clock, kek: KeyEncryptionKey
) -> _Core:
    events = EventBus()
    events.subscribe(EventLog())
    identity = await store.identity()
    if identity.trust_domain != settings.trust_domain:
        raise InvalidInput(
            f"{settings.data_dir} is the authority of {identity.trust_domain}, "
            f"not of {settings.trust_domain}",
            remedy="correct trust_domain or data_dir",
        )
    opened = await _open_secrets(store, kek, identity.salt)
    hub = FeedHub(identity.feed_id, store)
    await hub.load()
    store.attach(sign=opened.signer.sign, deliver=hub.deliver)
    board = PropagationBoard(clock)
    for agent in await store.agents():
        board.enrolled(agent)
    certifier = Certifier(
        opened.issuing,
        SerialAllocator(store, opened.issuing.key_id_hex, shards=settings.crl_shards),
        settings=settings,
        clock=clock,
        authorities=[issuer.certificate for issuer in opened.issuers.values()],
    )
    return _Core(
        settings=settings,
        clock=clock,
        events=events,
        store=store,
        secrets=opened,
        hub=hub,
        board=board,
        certifier=certifier,
    )


async def _open_secrets(store: Store, kek: KeyEncryptionKey, salt: bytes) -> _Secrets:
    wrapped = await store.wrapped_keys()
    # Deriving the key from a passphrase takes a while, and threads to do it in.
    keystore = await asyncio.to_thread(KeyStore, kek, salt)
    keys = keystore.unwrap_all(wrapped)
    records = await store.issuers()
    issuers = {record.key_id: _issuer(record, keys) for record in records}
    issuing = [record for record in records if record.role == ISSUING_KEY]
    if not issuing:
        raise InternalError("this authority has no issuing certificate")
    return _Secrets(
        issuers=issuers,
        issuing=issuers[issuing[-1].key_id],
        signer=FeedSigner(feed_key(wrapped, keys)),
    )


def _issuer(record: IssuerRecord, keys: Mapping[str, PrivateKey]) -> Issuer:
    certificate = certificate_from_der(record.der)
    chain = (certificate,) if record.role == ISSUING_KEY else ()
    return Issuer(certificate, keys[record.key], chain=chain)


def _services(core: _Core, status: Status, operators: Operators, *, agents_port: int) -> Services:
    store, hub, certifier = core.store, core.hub, core.certifier
    shared = _Shared(settings=core.settings, clock=core.clock, events=core.events)
    return Services(
        entries=Entries(hub, store, settings=core.settings, clock=core.clock),
        tokens=Tokens(store, hub.state, settings=core.settings, clock=core.clock),
        policies=Policies(hub, store, clock=core.clock),
        certificates=Certificates(store, clock=core.clock),
        revocations=Revocations(store, hub, **shared),
        propagation=core.board,
        operators=operators,
        audit=Audit(store),
        enrolment=Enrolments(
            store,
            certifier,
            welcome=lambda: Welcome(
                bundle=status.bundle_document(),
                feed_keys=(core.secrets.signer.public_key,),
                agents_port=agents_port,
            ),
            joined=core.board.enrolled,
            **shared,
        ),
        status=status,
    )


def _in_background(
    stack: contextlib.AsyncExitStack, name: str, work: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    """Run `work` until the stack unwinds; begin it anew if it ever fails."""

    async def run() -> None:
        while True:
            try:
                await work()
            except Exception:
                _log.exception("%s: failed, beginning anew", name)
                await asyncio.sleep(_RESTART_S)

    task = asyncio.create_task(run(), name=name)

    async def stop() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    stack.push_async_callback(stop)


def _prepare_directory(path: Path) -> None:
    """Make a directory that only its owner can enter, or check that it is one."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = path.stat().st_mode
    except OSError as error:
        raise Unavailable(f"{path} cannot be used: {error.strerror}") from None
    if mode & 0o077:
        raise InvalidInput(f"others than the owner can enter {path}", remedy=f"chmod 700 {path}")


@contextlib.contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    """Hold the directory alone: two processes would hand out the same serial numbers."""
    try:
        descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise Unavailable(f"{data_dir} cannot be used: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise Conflict(
            f"an authority is running on {data_dir} already",
            remedy="stop it first, or choose another data directory",
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)
