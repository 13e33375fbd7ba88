"""Authorization: who may call whom. Pure, and nothing but the standard library."""

from legation.policy.decision import DEFAULT_DENY, Decision, Request
from legation.policy.matcher import PolicyMatcher
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
from legation.policy.rbac import CompiledRBAC, compile_rbac, decision_from_metadata
from legation.policy.reading import InvalidPolicy, PolicyTooLarge

__all__ = [
    "DEFAULT_DENY",
    "Action",
    "AuthorizationPolicy",
    "CompiledRBAC",
    "Decision",
    "Form",
    "InvalidPolicy",
    "Mode",
    "Operation",
    "PathAction",
    "PathPattern",
    "PathVerdict",
    "PolicyMatcher",
    "PolicyTooLarge",
    "Request",
    "Rule",
    "Source",
    "SpiffeIDPattern",
    "compile_rbac",
    "decision_from_metadata",
    "normalise_path",
]
