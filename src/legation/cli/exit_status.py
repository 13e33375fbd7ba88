"""Exit statuses: derived from `legation.errors.OUTCOMES`, plus those of the process itself."""

from collections.abc import Mapping

from legation.errors import OUTCOMES

OK = 0
DEFECT = 1
INTERRUPTED = 130  # 128 + SIGINT, as shells show it
BROKEN_PIPE = 141  # 128 + SIGPIPE

# The sentence for each status; the test suite checks that no status lacks one.
MEANINGS: Mapping[int, str] = {
    OK: "done",
    1: "failed, or a check found errors",
    2: "wrong usage or unacceptable input",
    3: "the other side cannot be reached",
    4: "not authenticated, or not permitted",
    5: "not found",
    6: "conflict: it exists, was used, or changed meanwhile",
    7: "timed out",
    INTERRUPTED: "interrupted",
    BROKEN_PIPE: "the reader of the output went away",
}


def codes_of(status: int) -> tuple[str, ...]:
    """Return the error codes that end the process with `status`."""
    return tuple(kind.code for kind, outcome in OUTCOMES.items() if outcome.exit == status)


def exit_table(*, indent: int) -> str:
    """Render the statuses for the help text, one a line."""
    return "\n".join(f"{' ' * indent}{status:<4}{text}" for status, text in MEANINGS.items())
