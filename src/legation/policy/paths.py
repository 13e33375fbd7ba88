"""Path normalisation."""
from dataclasses import dataclass
from enum import Enum


class PathAction(Enum):
    """What to do with a request after its path was normalised."""

    CONTINUE = "continue"
    REDIRECT = "redirect"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class PathVerdict:
    """The outcome of normalisation."""

    action: PathAction
    path: str


def normalise_path(raw: str) -> PathVerdict:
    return PathVerdict(PathAction.CONTINUE, raw)
