"""How an authority begins: keys, root, issuing CA, empty lists, first administrator."""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from legation.authority.administration.operators import operator_id, operator_order
from legation.authority.issuers.making import issuer_record, make_issuing, make_root
from legation.authority.issuing.certifier import Certifier
from legation.authority.issuing.serials import SerialAllocator
from legation.authority.keystore import (
    FEED_KEY,
    ISSUING_KEY,
    JWT_KEY,
    ROOT_KEY,
    SALT_SIZE,
    KeyEncryptionKey,
    KeyStore,
)
from legation.authority.model import AUTHORITY_PATH, Operator, Role
from legation.authority.moments import stamp
from legation.authority.revoking.crl_lists import next_lists, places, published
from legation.authority.settings import AuthoritySettings
from legation.authority.store import (
    AuditDraft,
    AuthorityIdentity,
    EventDraft,
    InitialState,
    Issuance,
    Store,
    StoredCRL,
)
from legation.clock import Clock
from legation.pki import (
    CertificateRequest,
    Issuer,
    PrivateKey,
    SerialNumber,
    SpiffeID,
    TrustBundle,
    generate_key,
    key_id,
)
from legation.wire.feed import FeedSigner, Kind

_REFRESH_HINT_S = 300
_ISSUING_INDEX, _OPERATOR_INDEX = 1, 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstOperator:
    """Who administers the new authority: a name, and a request for the key made for it."""

    name: str
    csr: bytes = field(repr=False)
    lifetime_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Initialised:
    """What a new authority hands to the person who made it.

    Attributes:
        root: the root certificate, DER.
        bundle: the trust bundle.
        operator: the first administrator.
        operator_chain: its certificate, DER, leaf first, without the root.
    """

    root: bytes
    bundle: TrustBundle
    operator: Operator
    operator_chain: tuple[bytes, ...]


async def initialise(
    store: Store,
    settings: AuthoritySettings,
    *,
    clock: Clock,
    kek: KeyEncryptionKey,
    operator: FirstOperator,
) -> Initialised:
    """Make everything an authority begins with, and record it at once.

    Raises:
        Conflict: the store holds an authority already.
        InvalidInput: the operator's name or request is not acceptable.
    """
    at = stamp(clock)
    salt = secrets.token_bytes(SALT_SIZE)
    root = make_root(settings, at)
    jwt_key = generate_key(settings.jwt_key_algorithm)
    made = _Made(
        root=root,
        issuing=make_issuing(root, _ISSUING_INDEX, settings=settings, at=at),
        feed_key=ec.generate_private_key(ec.SECP256R1()),
        jwt_key=jwt_key,
        administrator=Operator(
            spiffe_id=operator_id(settings.trust_domain, operator.name),
            role=Role.ADMIN,
            created_at=at,
        ),
        bundle=TrustBundle(
            settings.trust_domain,
            (root.certificate,),
            jwt_authorities={key_id(jwt_key.public_key()).hex(): jwt_key.public_key()},
            sequence=1,
            refresh_hint_s=_REFRESH_HINT_S,
        ),
    )
    certifier, certificate = _certified(made, operator, store, settings=settings, clock=clock)
    identity = AuthorityIdentity(
        trust_domain=settings.trust_domain,
        feed_id=secrets.token_hex(16),
        salt=salt,
        created_at=at,
    )
    state = _initial_state(made, identity, certificate, keys=KeyStore(kek, salt), settings=settings)
    store.attach(sign=FeedSigner(made.feed_key).sign)
    await store.initialise(state)
    return Initialised(
        root=root.certificate.public_bytes(Encoding.DER),
        bundle=made.bundle,
        operator=made.administrator,
        operator_chain=certifier.chain(certificate),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    root: Issuer
    issuing: Issuer
    feed_key: ec.EllipticCurvePrivateKey
    jwt_key: PrivateKey
    administrator: Operator
    bundle: TrustBundle


def _initial_state(
    made: _Made,
    identity: AuthorityIdentity,
    certificate: Issuance,
    *,
    keys: KeyStore,
    settings: AuthoritySettings,
) -> InitialState:
    at = identity.created_at
    root, issuing = made.root, made.issuing
    lists = _empty_lists((root, issuing), settings, at)
    feed_key_id = key_id(made.feed_key.public_key()).hex()
    jwt_key_id = key_id(made.jwt_key.public_key()).hex()
    bundle = EventDraft(
        kind=Kind.BUNDLE, key=settings.trust_domain.name, value=made.bundle.to_document()
    )
    return InitialState(
        identity=identity,
        keys=(
            keys.wrap(root.key_id_hex, ROOT_KEY, root.private_key, at=at),
            keys.wrap(issuing.key_id_hex, ISSUING_KEY, issuing.private_key, at=at),
            keys.wrap(feed_key_id, FEED_KEY, made.feed_key, at=at),
            keys.wrap(jwt_key_id, JWT_KEY, made.jwt_key, at=at),
        ),
        issuers=(
            issuer_record(root, ROOT_KEY, at),
            issuer_record(issuing, ISSUING_KEY, at),
        ),
        crls=tuple(crl for crl, _ in lists),
        events=(bundle, *(draft for _, draft in lists)),
        operator=made.administrator,
        certificates=(certificate,),
        next_serials={
            (root.key_id_hex, 0): _ISSUING_INDEX + 1,
            (issuing.key_id_hex, 0): _OPERATOR_INDEX + 1,
        },
        audit=AuditDraft(
            time=at,
            actor=str(SpiffeID(settings.trust_domain, AUTHORITY_PATH)),
            action="authority.initialise",
            subject=settings.trust_domain.name,
            detail={
                "root": root.key_id_hex,
                "issuer": issuing.key_id_hex,
                "operator": str(made.administrator.spiffe_id),
            },
        ),
    )


def _certified(
    made: _Made,
    operator: FirstOperator,
    store: Store,
    *,
    settings: AuthoritySettings,
    clock: Clock,
) -> tuple[Certifier, Issuance]:
    certifier = Certifier(
        settings=settings,
        clock=clock,
        authorities=(made.root.certificate, made.issuing.certificate),
    )
    certifier.sign_with(made.issuing, SerialAllocator(store, made.issuing.key_id_hex))
    order = operator_order(
        made.administrator.spiffe_id,
        CertificateRequest.from_der(operator.csr),
        lifetime_s=operator.lifetime_s,
        requester=SpiffeID(settings.trust_domain, AUTHORITY_PATH),
        settings=settings,
    )
    serial = SerialNumber.generate(shard=0, index=_OPERATOR_INDEX).to_int()
    return certifier, certifier.certify(order, serial=serial)


def _empty_lists(
    issuers: Iterable[Issuer], settings: AuthoritySettings, at: datetime
) -> list[tuple[StoredCRL, EventDraft]]:
    """Return a first list for every issuer and shard: without one, verifiers refuse everyone."""
    lists = []
    for issuer in issuers:
        for place in sorted(places((issuer,), settings)):
            first = next_lists(issuer, place[1], (), held=None, at=at, settings=settings)
            lists.append(published(first, settings=settings))
    return lists
