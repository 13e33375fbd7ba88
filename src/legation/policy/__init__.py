"""Authorization: who may call whom. Pure, and nothing but the standard library."""

from legation.policy.model import (
    Action,
    AuthorizationPolicy,
    Mode,
    Operation,
    Rule,
    Source,
)
from legation.policy.paths import PathAction, PathVerdict, normalise_path
from legation.policy.patterns import Form, PathPattern, SpiffeIDPattern
from legation.policy.reading import InvalidPolicy, PolicyTooLarge

__all__ = [
    "Action",
    "AuthorizationPolicy",
    "Form",
    "InvalidPolicy",
    "Mode",
    "Operation",
    "PathAction",
    "PathPattern",
    "PathVerdict",
    "PolicyTooLarge",
    "Rule",
    "Source",
    "SpiffeIDPattern",
    "normalise_path",
]
