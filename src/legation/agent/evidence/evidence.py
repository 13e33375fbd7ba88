"""What every kind of evidence offers to the enrolment."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Occasion:
    """An enrolment that is under way, with an authority that has proved who it is.

    Attributes:
        trust_domain: whose authority it is.
        csr: the request that will be sent, DER.
        challenge: asks the authority for a nonce.
    """

    trust_domain: str
    csr: bytes
    challenge: Callable[[], bytes]


class Evidence(Protocol):
    """Something that lets an agent in.

    Attributes:
        kind: the word by which the authority knows it, see `legation.wire.evidence`.
    """

    @property
    def kind(self) -> str: ...

    def document(self, occasion: Occasion) -> Mapping[str, Any]:
        """Return its members, as JSON values; blocking.

        Raises:
            LegationError: it cannot be had.
        """
        ...
