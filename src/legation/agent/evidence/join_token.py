"""Join tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from legation.agent.evidence.evidence import Occasion
from legation.wire.evidence import JOIN_TOKEN


@dataclass(frozen=True, slots=True)
class JoinToken:
    """Implements `Evidence` with what an operator was shown."""

    token: str = field(repr=False)

    @property
    def kind(self) -> str:
        """The word for it."""
        return JOIN_TOKEN

    def document(self, occasion: Occasion) -> Mapping[str, Any]:
        """Return the token; whoever holds it may choose the key."""
        del occasion
        return {"token": self.token}
