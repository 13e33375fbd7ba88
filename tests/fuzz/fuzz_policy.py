"""Any bytes are policies that hold together, or are refused with one of our errors."""

from legation.config.yaml_documents import load_documents
from legation.errors import InvalidInput
from legation.policy import (
    AuthorizationPolicy,
    PathAction,
    PolicyMatcher,
    Request,
    compile_rbac,
    normalise_path,
)

_TARGET = "spiffe://example.org/orders"

SEEDS = (
    b"""apiVersion: legation/v1
kind: AuthorizationPolicy
metadata: {name: readers}
spec:
  target: {spiffeIDs: [spiffe://example.org/orders, spiffe://example.org/ns/*/api]}
  action: ALLOW
  mode: enforce
  rules:
    - from:
        - spiffeIDs: [spiffe://example.org/web/*]
          notSpiffeIDs: [spiffe://example.org/web/*/canary]
      to:
        - {methods: [GET], paths: [/orders, /orders/*], ports: [8443]}
        - {notMethods: [PUT], notPaths: ["*/admin", "*"]}
    - {}
""",
    b"""---
{"apiVersion": "legation/v1", "kind": "AuthorizationPolicy", "metadata": {"name": "shut"},
 "spec": {"target": {"spiffeIDs": ["spiffe://example.org/*"]}, "action": "DENY", "rules": [{}]}}
---
{"apiVersion": "legation/v1", "kind": "AuthorizationPolicy", "metadata": {"name": "dry-run"},
 "spec": {"target": {"spiffeIDs": ["spiffe://example.org/*"]}, "action": "DENY",
          "mode": "shadow", "rules": [{"to": [{"paths": ["/"]}]}]}}
""",
    b"/a/%2e%2e//..;x/%%32f%5cb?q=%2f",
)


def one_input(data: bytes) -> None:
    """Try `data` as YAML, and what comes out of it as policies; and `data` as a path."""
    verdict = normalise_path(data.decode("latin-1"))
    if verdict.action is not PathAction.REJECT and not verdict.path.startswith("/"):
        raise AssertionError(verdict)
    try:
        documents = load_documents(data, source="fuzz.yaml")
        policies = [AuthorizationPolicy.from_document(document) for document in documents]
        matcher = PolicyMatcher(policies)
    except InvalidInput:
        return
    for policy in policies:
        if AuthorizationPolicy.from_document(policy.to_document()) != policy:
            raise AssertionError(policy)
    for protocol in ("http", "tcp"):
        compile_rbac(policies, _TARGET, protocol=protocol)
    decision = matcher.decide(
        Request(source=_TARGET, target=_TARGET, method="GET", path=verdict.path, port=443)
    )
    if decision.allowed and decision.policy is None:
        raise AssertionError(decision)
