"""Any bytes are staleness policies that hold together, or are refused with one of our errors."""

from legation.config.yaml_documents import load_documents
from legation.errors import InvalidInput
from legation.policy import StalenessPolicy, governing

_POINT = "spiffe://example.org/ns/prod/api"

SEEDS = (
    b"""apiVersion: legation/v1
kind: StalenessPolicy
metadata: {name: payments}
spec:
  to: [spiffe://example.org/payments/*, spiffe://example.org/ns/*/api]
  bound: 1h30m
  then: refuse
  warnAt: 50%
""",
    b"""{"apiVersion": "legation/v1", "kind": "StalenessPolicy", "metadata": {"name": "all"},
 "spec": {"to": ["spiffe://example.org/*"], "bound": "10s", "then": "continue"}}
""",
)


def one_input(data: bytes) -> None:
    """Try `data` as YAML, and what comes out of it as policies."""
    try:
        documents = load_documents(data, source="fuzz.yaml")
        policies = [StalenessPolicy.from_document(document) for document in documents]
    except InvalidInput:
        return
    for policy in policies:
        if StalenessPolicy.from_document(policy.to_document()) != policy:
            raise AssertionError(policy)
    found = governing(policies, _POINT)
    if (found is None) is any(p.matches(_POINT) for policy in policies for p in policy.to):
        raise AssertionError(found)
