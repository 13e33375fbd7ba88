"""Random policies and requests that meet often enough to be interesting."""

from random import Random
from typing import Any

from legation.policy import AuthorizationPolicy

TARGET = "spiffe://example.org/orders"
PORTS = (8443, 9000)

SOURCES = (
    "spiffe://example.org/web",
    "spiffe://example.org/web/a",
    "spiffe://example.org/web/a/b",
    "spiffe://example.org/webx",
    "spiffe://example.org/ns/prod/api",
    "spiffe://example.org/ns/dev/api",
    "spiffe://example.org/ns/dev/apix",
    "spiffe://example.org/ns/prod/api/v1",
    "spiffe://example.org/ns/prod/api/v1/x",
    "spiffe://example.org",
    "spiffe://partner.test/web/a",
    "spiffe://examplexorg/ns/prod/api",
)
SOURCE_PATTERNS = (
    *SOURCES,
    "spiffe://example.org/*",
    "spiffe://partner.test/*",
    "spiffe://example.org/web/*",
    "spiffe://example.org/ns/*/api",
    "spiffe://example.org/ns/*/api/*",
    "spiffe://example.org/*/a",
    "spiffe://example.org/*/*",
)
TARGET_PATTERNS = (TARGET, TARGET, "spiffe://example.org/*", "spiffe://example.org/other")
METHODS = ("GET", "POST", "PUT", "DELETE", "OPTIONS")
PATH_PATTERNS = (
    "*",
    "/",
    "/*",
    "/orders",
    "/orders/*",
    "*/orders",
    "/orders/7",
    "/orders/7/items",
    "*/items",
    "*/",
    "/Orders",
    "/orders/%C3%A9",
    "/a.b/c~d",
)
PATHS = (
    "/",
    "/orders",
    "/orders/",
    "/orders/7",
    "/orders/7/items",
    "/orders/7/items/",
    "/Orders",
    "/ordersx",
    "/a.b/c~d",
    "/orders/%C3%A9",
    "/orders/%c3%a9",
)


def random_policies(random: Random, count: int) -> list[AuthorizationPolicy]:
    """Return up to `count` policies, mostly for `TARGET`."""
    return [
        _policy(random, name)
        for name in random.sample([f"p{i}" for i in range(9)] + ["p", "p-1", "p.1"], count)
    ]


def random_path(random: Random) -> str:
    """Return a request target, every second one hostile."""
    path = random.choice(PATHS)
    for _ in range(random.choice((0, 0, 0, 1, 1, 2))):
        place = random.randrange(len(path)) if len(path) > 1 else 0
        path = path[: place + 1] + random.choice(_DISTURBANCES) + path[place + 1 :]
    if random.random() < 0.1:
        path = "/x/.." + path
    if random.random() < 0.1:
        path += "/" + "y" * random.choice((1, 300, 3000))
    return path + random.choice(("", "", "", "?q=1", "?/../orders", "?a=%2F..&b"))


_DISTURBANCES = (
    "/", "//", "/./", "/../", "/..", "/x/../", "\\", "..\\", "%2f", "%2F..", "%5c", "%2e", "%2E%2e",
    "/%2e%2e/", "/..;/", "/.;a=b/", ";x", "%6f", "%72", "%3A", ":", "%", "%%32f", "%25", "%00", "#",
    "%C3%A9", "~", "%7E", "*", "A", "\x7f",
)  # fmt: skip


def _policy(random: Random, name: str) -> AuthorizationPolicy:
    return AuthorizationPolicy.from_document(
        {
            "apiVersion": "legation/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": name},
            "spec": {
                "target": {"spiffeIDs": [random.choice(TARGET_PATTERNS)]},
                "action": random.choice(("ALLOW", "ALLOW", "DENY")),
                "mode": random.choice(("enforce", "enforce", "shadow")),
                "rules": [_rule(random) for _ in range(random.choice((1, 1, 2, 3)))],
            },
        }
    )


def _rule(random: Random) -> dict[str, Any]:
    rule: dict[str, Any] = {}
    if random.random() < 0.8:
        rule["from"] = [_source(random) for _ in range(random.choice((1, 1, 2)))]
    if random.random() < 0.85:
        rule["to"] = [_operation(random) for _ in range(random.choice((1, 1, 2)))]
    return rule


def _source(random: Random) -> dict[str, Any]:
    fields = {
        "spiffeIDs": random.sample(SOURCE_PATTERNS, random.choice((1, 2, 4))),
        "notSpiffeIDs": random.sample(SOURCE_PATTERNS, random.choice((1, 2))),
    }
    return _some(random, fields, (("spiffeIDs",), ("spiffeIDs",), ("notSpiffeIDs",), tuple(fields)))


def _operation(random: Random) -> dict[str, Any]:
    fields = {
        "methods": random.sample(METHODS, random.choice((1, 2))),
        "notMethods": random.sample(METHODS, random.choice((1, 2))),
        "paths": random.sample(PATH_PATTERNS, random.choice((1, 2, 3))),
        "notPaths": random.sample(PATH_PATTERNS, random.choice((1, 2))),
        "ports": [random.choice(PORTS)],
    }
    shapes = (
        ("methods", "paths"), ("methods", "paths"), ("paths",), ("paths",), ("methods",),
        ("notMethods",), ("notPaths",), ("paths", "notPaths"), ("ports",),
        ("methods", "notMethods"), ("notMethods", "notPaths"), tuple(fields),
    )  # fmt: skip
    return _some(random, fields, shapes)


def _some(
    random: Random, fields: dict[str, Any], shapes: tuple[tuple[str, ...], ...]
) -> dict[str, Any]:
    return {name: fields[name] for name in random.choice(shapes)}
