"""Why evidence is refused."""

from legation.causes import Cause
from legation.errors import NotAuthenticated


class EvidenceRefused(NotAuthenticated):
    """What an agent showed does not let it in.

    Attributes:
        cause: the word for it; the message begins with it.
    """

    def __init__(self, cause: Cause, detail: str, *, remedy: str | None = None) -> None:
        super().__init__(f"{cause}: {detail}", remedy=remedy or cause.remedy)
        self.cause = cause
