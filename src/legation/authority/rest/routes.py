"""The route table: every operation of the interface."""

from legation.authority.rest.calls import Route
from legation.authority.rest.resources import (
    audit,
    certificates,
    entries,
    operators,
    policies,
    propagation,
    public,
    revocations,
    tokens,
)

ROUTES: tuple[Route, ...] = (
    *public.ROUTES,
    *entries.ROUTES,
    *tokens.ROUTES,
    *policies.ROUTES,
    *certificates.ROUTES,
    *revocations.ROUTES,
    *propagation.ROUTES,
    *operators.ROUTES,
    *audit.ROUTES,
)
