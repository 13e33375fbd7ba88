"""From workload entries to identities: make keys, have them certified, prove the result."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self, TypeAlias

from legation.agent.identities.proof import prove
from legation.agent.model import WorkloadIdentity
from legation.clock import Clock
from legation.errors import InternalError, InvalidInput, LegationError, Unavailable
from legation.pki import (
    KeyAlgorithm,
    PrivateKey,
    SpiffeID,
    TrustBundle,
    build_request,
    generate_key,
    private_key_to_der,
)
from legation.wire.feed import WorkloadEntry

Outcome: TypeAlias = WorkloadIdentity | LegationError
Prepare: TypeAlias = Callable[[WorkloadIdentity], Awaitable[None]]
"""Sees to it that there is a staple for a certificate; raises LegationError if there is none."""

# A proof takes milliseconds. This many are made before their results are put to use.
_PROOFS = 8
_SLOW_KEYS = frozenset({KeyAlgorithm.RSA_3072, KeyAlgorithm.RSA_4096})

_log = logging.getLogger(__name__)


class Certifier(Protocol):
    """Certifies keys for workload entries."""

    async def issue(
        self, requests: Sequence[tuple[str, bytes]]
    ) -> Sequence[tuple[bytes, ...] | LegationError]:
        """Return for each (entry id, CSR) the chain in DER, leaf first, or the error."""
        ...


async def certify(
    entries: Sequence[WorkloadEntry],
    *,
    certifier: Certifier,
    bundles: Callable[[WorkloadEntry], Sequence[TrustBundle]],
    clock: Clock,
) -> AsyncIterator[Sequence[Outcome]]:
    """Certify new keys for `entries` in one request; yield the outcomes in order, a few at once.

    Args:
        entries: what to certify.
        certifier: who certifies.
        bundles: returns the trust bundles that a certificate must verify under, each of them.
        clock: tells the time.

    Raises:
        LegationError: the request as a whole failed.
    """
    prepared = [await _prepared(entry) for entry in entries]
    asked = [request for request in prepared if isinstance(request, _Request)]
    answers = await certifier.issue([(request.entry.id, request.csr) for request in asked])
    if len(answers) != len(asked):
        raise Unavailable("the authority answered another number of requests than it was sent")
    remaining = iter(answers)
    answered = [
        (request, next(remaining)) if isinstance(request, _Request) else request
        for request in prepared
    ]
    for start in range(0, len(answered), _PROOFS):
        cases = [
            case if isinstance(case, LegationError) else (*case, bundles(case[0].entry))
            for case in answered[start : start + _PROOFS]
        ]
        yield await asyncio.to_thread(_outcomes, cases, clock)


async def stapled(identity: WorkloadIdentity, prepare: Prepare) -> Outcome:
    """Return an identity once there is a staple for it, or why there is none."""
    try:
        await prepare(identity)
    except LegationError as error:
        return error
    except Exception as error:
        _log.exception("no staple")
        return InternalError(f"no staple: {type(error).__name__}")
    return identity


async def unprepared(identity: WorkloadIdentity) -> None:
    """Have no staple, for an agent that staples nothing."""
    raise Unavailable(f"certificate {identity.serial:x} must be stapled, and nobody does it")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    entry: WorkloadEntry
    private_key: PrivateKey = field(repr=False)
    csr: bytes

    @classmethod
    def of(cls, entry: WorkloadEntry) -> Self:
        if entry.key_algorithm not in set(KeyAlgorithm):
            raise InvalidInput(f"this agent makes no keys of {entry.key_algorithm!a}")
        private_key = generate_key(KeyAlgorithm(entry.key_algorithm))
        spiffe_id = SpiffeID.parse(entry.spiffe_id)
        csr = build_request(private_key, spiffe_id=spiffe_id, dns_names=entry.dns_names)
        return cls(entry=entry, private_key=private_key, csr=csr)


async def _prepared(entry: WorkloadEntry) -> _Request | LegationError:
    try:
        if entry.key_algorithm in _SLOW_KEYS:
            return await asyncio.to_thread(_Request.of, entry)
        return _Request.of(entry)
    except LegationError as error:
        return error


_Answered: TypeAlias = (
    LegationError | tuple[_Request, tuple[bytes, ...] | LegationError, Sequence[TrustBundle]]
)


def _outcomes(answered: Sequence[_Answered], clock: Clock) -> list[Outcome]:
    return [case if isinstance(case, LegationError) else _proved(*case, clock) for case in answered]


def _proved(
    request: _Request,
    answer: tuple[bytes, ...] | LegationError,
    bundles: Sequence[TrustBundle],
    clock: Clock,
) -> Outcome:
    if isinstance(answer, LegationError):
        return answer
    expected = SpiffeID.parse(request.entry.spiffe_id)
    try:
        chain = prove(
            answer,
            request.private_key,
            expected=expected,
            bundle=bundles[0],
            further=bundles[1:],
            dns_names=request.entry.dns_names,
            at=clock.now(),
        )
    except LegationError as error:
        return error
    return WorkloadIdentity(
        entry=request.entry,
        chain=answer,
        private_key=private_key_to_der(request.private_key),
        serial=chain[0].serial_number,
        not_before=chain[0].not_valid_before_utc,
        not_after=chain[0].not_valid_after_utc,
    )
