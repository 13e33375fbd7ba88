"""What is delivered, what a generation of files is, and what is said of it."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Final, Protocol, Self

from cryptography.hazmat.primitives.serialization import Encoding

from legation.agent.model import WorkloadIdentity
from legation.agent.sinks.plan import Outcome, Step
from legation.clock import from_rfc3339, to_rfc3339
from legation.errors import InvalidInput
from legation.pki import RevocationList, TrustBundle, certificate_from_der
from legation.pki.ocsp import OCSPError, build_error
from legation.wire.canonical import parse_json

# While there is no response: one that every server can read, and that says nothing. nginx does
# not start with an empty file; HAProxy passes over this one.
NO_STAPLE: Final = build_error(OCSPError.TRY_LATER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What one generation of files is made of.

    Attributes:
        identity: chain and key.
        bundle: the roots of the trust domain.
        lists: revocation lists, their signatures checked; empty where none are written.
        revision: feed revision at which all of this was read.
        complete: whether `lists` name everything that is revoked at `revision`.
        marked: whether the root stands at the end of the served chain. A client ignores a
            root (RFC 8446, section 4.4.2), so this changes nothing but what a probe sees: it
            tells that a reload took place which only brought other revocation lists.
        staple: the OCSP response, DER. It is no part of the digest: it is replaced by itself.
    """

    identity: WorkloadIdentity
    bundle: TrustBundle
    lists: tuple[RevocationList, ...] = ()
    revision: int
    complete: bool = True
    marked: bool = False
    staple: bytes = NO_STAPLE

    @property
    def served(self) -> tuple[bytes, ...]:
        """The chain that the server should present, DER, leaf first."""
        root = self.root if self.marked else None
        return (*self.identity.chain, *([root] if root else []))

    @property
    def revoked(self) -> frozenset[int]:
        """The serial numbers that the lists name."""
        return frozenset(serial for known in self.lists for serial in known.entries)

    @property
    def root(self) -> bytes | None:
        """The root above the chain, DER, or None when the bundle has it not."""
        last = certificate_from_der(self.identity.chain[-1])
        for authority in self.bundle.x509_authorities:
            if authority.subject == last.issuer and authority != last:
                return authority.public_bytes(Encoding.DER)
        return None

    @property
    def digest(self) -> str:
        """A digest of all but the mark: equal digests need no new generation."""
        parts = [
            *self.identity.chain,
            b"bundle",
            *(root.public_bytes(Encoding.DER) for root in self.bundle.x509_authorities),
            b"lists",
            *(hashlib.sha256(known.der).digest() for known in self.lists),
        ]
        return _digest(parts)

    def following(self, previous: "Generation | None") -> Self:
        """Return the same, marked if only so a probe could tell it from `previous`."""
        if previous is None or digest_of_chain(self.served) != previous.served:
            return self
        return replace(self, marked=not self.marked)


def digest_of_chain(chain: Sequence[bytes]) -> str:
    """Return a digest of a chain as a server presents it."""
    return _digest(chain)


def _digest(parts: Sequence[bytes]) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "big") + part)
    return total.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One directory of files that was written completely, as its record says.

    Attributes:
        number: of the directory; rises.
        spiffe_id: whose identity it is.
        serial: of the leaf.
        not_after: end of the leaf's validity.
        digest: `Material.digest`.
        served: digest of the chain that a server presents with it.
    """

    number: int
    spiffe_id: str
    serial: int
    not_after: datetime
    digest: str
    served: str

    @classmethod
    def of(cls, material: Material, number: int) -> Self:
        """Return the record of `material`."""
        return cls(
            number=number,
            spiffe_id=material.identity.spiffe_id,
            serial=material.identity.serial,
            not_after=material.identity.not_after,
            digest=material.digest,
            served=digest_of_chain(material.served),
        )

    def to_value(self) -> dict[str, Any]:
        """Render as JSON values."""
        changed = {"serial": format(self.serial, "x"), "not_after": to_rfc3339(self.not_after)}
        return asdict(self) | changed

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse the JSON of `to_value`.

        Raises:
            InvalidInput: it is not that.
        """
        try:
            value = parse_json(data)
            return cls(
                number=int(value["number"]),
                spiffe_id=str(value["spiffe_id"]),
                serial=int(value["serial"], 16),
                not_after=from_rfc3339(value["not_after"]),
                digest=str(value["digest"]),
                served=str(value["served"]),
            )
        except (KeyError, TypeError, ValueError):
            raise InvalidInput("not the record of a generation") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """A delivery ended; subscribers count and log it.

    Attributes:
        sink: name of the sink.
        outcome: how it ended.
        issued: serial of what should be served.
        in_force: serial of what is served, as far as known.
        failed_at: the first step that failed.
        problem: why, one line without secrets.
        duration_s: how long it took.
    """

    sink: str
    outcome: Outcome
    issued: int
    in_force: int | None
    failed_at: Step | None = None
    problem: str | None = None
    duration_s: float

    @property
    def alarming(self) -> bool:
        """Whether a person has to look."""
        return self.outcome in {Outcome.ROLLED_BACK, Outcome.FAILED}


class Listener(Protocol):
    """Hears of deliveries. It must not raise."""

    def __call__(self, event: Delivered) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkStatus:
    """How a sink is, for people.

    Attributes:
        state: a word of `Outcome`, or "waiting" before the first delivery.
        issued: serial of the current certificate.
        in_force: serial of the certificate that the server was last seen or told to use.
        revision: feed revision whose revocations the server has been seen to load; None when
            it loads none.
        next_attempt: when it is tried again; None when nothing is to be done.
    """

    name: str
    kind: str
    spiffe_id: str
    state: str
    issued: int | None
    in_force: int | None
    revision: int | None
    since: datetime | None
    failures: int
    next_attempt: datetime | None
    problem: str | None
    notes: tuple[str, ...] = ()
