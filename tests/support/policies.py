"""Policies that let callers in."""

import json
from typing import Any


def allow(target: str, *callers: str, name: str = "callers") -> dict[str, Any]:
    """Return the document that lets callers do everything at a target, both by patterns."""
    return {
        "apiVersion": "legation/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": name},
        "spec": {
            "target": {"spiffeIDs": [target]},
            "action": "ALLOW",
            "rules": [{"from": [{"spiffeIDs": list(callers)}]}],
        },
    }


def allow_text(target: str, *callers: str, name: str = "callers") -> str:
    """Return the same as `legation policy apply -f -` takes it."""
    return json.dumps(allow(target, *callers, name=name))
