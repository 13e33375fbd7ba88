"""Who may have lost a permission when policies change."""

from typing import Any

import pytest

from legation.policy import AuthorizationPolicy, may_have_lost

API, OTHER = "spiffe://example.org/api", "spiffe://example.org/other"
WEB, MOBILE = "spiffe://example.org/web", "spiffe://example.org/mobile"


def policy(*rules: dict[str, Any], name: str = "one", **spec: Any) -> AuthorizationPolicy:
    return AuthorizationPolicy.from_document(
        {
            "apiVersion": "legation/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": name},
            "spec": {
                "target": {"spiffeIDs": [API]},
                "action": "ALLOW",
                "rules": list(rules),
                **spec,
            },
        }
    )


def of(*sources: str, paths: tuple[str, ...] = ()) -> dict[str, Any]:
    rule: dict[str, Any] = {"from": [{"spiffeIDs": list(sources)}]}
    return rule | ({"to": [{"paths": list(paths)}]} if paths else {})


@pytest.mark.parametrize(
    ("before", "after", "losers"),
    [
        ([policy(of(WEB))], [policy(of(WEB))], ()),
        ([], [policy(of(WEB))], ()),
        ([policy(of(WEB))], [], (WEB,)),
        ([policy(of(WEB), of(MOBILE))], [policy(of(MOBILE))], (WEB,)),
        ([policy(of(WEB))], [policy(of(WEB), name="renamed")], ()),
        ([policy(of(WEB))], [policy(of(WEB, paths=("/a",)))], (WEB,)),
        ([policy({})], [], (WEB, MOBILE)),
        ([policy(of(WEB))], [policy(of(WEB), mode="shadow")], (WEB,)),
        ([policy(of(WEB), mode="shadow")], [], ()),
        ([policy(of(WEB))], [policy(of(WEB), target={"spiffeIDs": [OTHER]})], (WEB,)),
        ([policy(of(WEB), target={"spiffeIDs": [OTHER]})], [], ()),
        ([], [policy(of(MOBILE), action="DENY")], (MOBILE,)),
        ([policy(of(MOBILE), action="DENY")], [], ()),
        ([policy(of(MOBILE), action="DENY")], [policy(of(MOBILE), action="DENY")], ()),
        ([], [policy(of(MOBILE), action="DENY", mode="shadow")], ()),
    ],
)
def test_losers(
    before: list[AuthorizationPolicy], after: list[AuthorizationPolicy], losers: tuple[str, ...]
) -> None:
    """A rule that allowed and is gone takes from its callers, and so does a new one that denies."""
    has_lost = may_have_lost(before, after, target=API)
    assert tuple(one for one in (WEB, MOBILE) if has_lost(one)) == losers
