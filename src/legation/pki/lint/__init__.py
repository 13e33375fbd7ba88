"""Linting certificates: one rule of a standard, one function."""

from legation.pki.lint.engine import Finding, lint, lint_certificate
from legation.pki.lint.registry import LINTS, PROFILE_LINTS, Severity

__all__ = ["LINTS", "PROFILE_LINTS", "Finding", "Severity", "lint", "lint_certificate"]
