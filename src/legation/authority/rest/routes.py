"""The route table: every operation of the interface."""

from legation.authority.rest.calls import Route
from legation.authority.rest.resources import (
    audit,
    certificates,
    decoys,
    discovery,
    drills,
    entries,
    issuers,
    operators,
    policies,
    propagation,
    public,
    revocations,
    rotations,
    signals,
    tokens,
)

ROUTES: tuple[Route, ...] = (
    *public.ROUTES,
    *discovery.ROUTES,
    *entries.ROUTES,
    *tokens.ROUTES,
    *policies.ROUTES,
    *certificates.ROUTES,
    *revocations.ROUTES,
    *propagation.ROUTES,
    *rotations.ROUTES,
    *issuers.ROUTES,
    *operators.ROUTES,
    *decoys.ROUTES,
    *drills.ROUTES,
    *signals.ROUTES,
    *audit.ROUTES,
)
