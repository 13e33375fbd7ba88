"""Linting certificates: one rule of a standard, one function."""

from legation.pki.lint.engine import Finding, lint, lint_certificate
from legation.pki.lint.frames import MAX_FRAMES, FrameLinter
from legation.pki.lint.registry import LINTS, PROFILE_LINTS, Severity

__all__ = [
    "LINTS",
    "MAX_FRAMES",
    "PROFILE_LINTS",
    "Finding",
    "FrameLinter",
    "Severity",
    "lint",
    "lint_certificate",
]
