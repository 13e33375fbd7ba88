"""Authorization: who may call whom. Pure, and nothing but the standard library."""

from legation.policy.decision import DEFAULT_DENY, Decision, Request
from legation.policy.documents import AnyPolicy, policy_from_document
from legation.policy.losses import may_have_lost
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
from legation.policy.staleness import (
    JUDGED_KINDS,
    LISTS_POLICY,
    Bound,
    Freshness,
    Governance,
    StalenessPolicy,
    Then,
    governing,
)

__all__ = [
    "DEFAULT_DENY",
    "JUDGED_KINDS",
    "LISTS_POLICY",
    "Action",
    "AnyPolicy",
    "AuthorizationPolicy",
    "Bound",
    "CompiledRBAC",
    "Decision",
    "Form",
    "Freshness",
    "Governance",
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
    "StalenessPolicy",
    "Then",
    "compile_rbac",
    "decision_from_metadata",
    "governing",
    "may_have_lost",
    "normalise_path",
    "policy_from_document",
]
