"""Where a drill goes, and the policy that lets it in."""

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from legation.drill.targets import Protocol, Target, allowing_policy, check_path, parse_target
from legation.errors import InvalidInput
from legation.policy import AuthorizationPolicy

SERVICE = "spiffe://example.org/api"


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("api.example.org:8443", Target(host="api.example.org", port=8443)),
        (f"10.0.0.7:1={SERVICE}", Target(host="10.0.0.7", port=1, spiffe_id=SERVICE)),
        (
            f"[::1]:65535={SERVICE},protocol=tcp",
            Target(host="::1", port=65535, spiffe_id=SERVICE, protocol=Protocol.TCP),
        ),
        (
            "db:1,protocol=tcp,hello=00ff",
            Target(host="db", port=1, protocol=Protocol.TCP, hello=b"\x00\xff"),
        ),
        ("db:5432,protocol=http2", Target(host="db", port=5432, protocol=Protocol.HTTP2)),
    ],
)
def test_a_target_is_read(text: str, target: Target) -> None:
    """Address, identity and protocol each have their place, and are written the same way."""
    assert parse_target(text) == target
    assert str(target) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no address"),
        ("api", "has no address"),
        ("api:", "has no address"),
        ("api:0", "has no address"),
        ("api:65536", "has no address"),
        ("api:\uff18", "has no address"),
        (":8443", "has no address"),
        ("a b:1", "has no address"),
        ("api\n:1", "has no address"),
        ("::1:8443", "has no address"),
        ("[::g]:8443", "has no address"),
        (f"{'a' * 64}:1", "has no address"),
        ("api:1=", "SPIFFE"),
        ("api:1=https://example.org/api", "SPIFFE"),
        ("api:1,protocol=quic", "is no protocol"),
        ("api:1,protocol=http", "is no protocol"),
        ("api:1,retries=3", "an option that a target lacks"),
        ("api:1,protocol=tcp,protocol=tcp", "an option that a target lacks"),
        ("api:1,hello=00", "only protocol=tcp"),
        ("api:1,protocol=http1,hello=00", "only protocol=tcp"),
        ("api:1,protocol=tcp,hello=", "is no hello"),
        ("api:1,protocol=tcp,hello=0", "is no hello"),
        ("api:1,protocol=tcp,hello=0x", "is no hello"),
        (f"api:1,protocol=tcp,hello={'00' * 513}", "is no hello"),
        ("a" * 4000, "at most 3000 characters"),
    ],
)
def test_what_is_no_target_is_refused(text: str, words: str) -> None:
    """Each part that is missing or wrong has its own words."""
    with pytest.raises(InvalidInput, match=words):
        parse_target(text)


def test_a_slip_in_the_protocol_is_answered_with_the_nearest() -> None:
    """A near miss is named."""
    with pytest.raises(InvalidInput) as refused:
        parse_target("api:1,protocol=htttp2")
    assert refused.value.remedy == "did you mean http2?"


@given(st.text(max_size=200) | st.from_regex(r"[a-z0-9.:\[\]-]*:[0-9]{1,6}(=spiffe://.*)?(,.*)?"))
@example("[::ffff:1.2.3.4]:1")
@example("[fe80::1%eth0]:1")
@example("a:1=spiffe://a/b,c")
def test_any_text_is_a_target_or_refused(text: str) -> None:
    """Whatever is given becomes a target that is written and read back the same, or an error."""
    try:
        target = parse_target(text)
    except InvalidInput:
        return
    assert parse_target(str(target)) == target


def test_an_address_is_no_server_name() -> None:
    """RFC 6066 allows names alone in the server_name extension."""
    assert parse_target("api.example.org:1").server_name == "api.example.org"
    assert parse_target("127.0.0.1:1").server_name is None
    assert parse_target("[::1]:1").server_name is None


def test_the_policy_lets_decoys_in_and_nobody_else() -> None:
    """What `legation drill allow` prints is a policy for decoys, one path and one method."""
    text = allowing_policy([SERVICE], path="/healthz", name="drills")
    policy = AuthorizationPolicy.from_document(yaml.safe_load(text))
    assert policy.applies_to(SERVICE)
    assert not policy.applies_to("spiffe://example.org/other")
    (rule,) = policy.rules
    (source,) = rule.sources
    (pattern,) = source.spiffe_ids
    assert pattern.matches("spiffe://example.org/legation/decoy/revoked")
    assert not pattern.matches("spiffe://example.org/legation/operator/alice")


@pytest.mark.parametrize(
    ("identities", "options", "words"),
    [
        ([SERVICE, "spiffe://example.com/api"], {}, "one trust domain"),
        (["api"], {}, "SPIFFE"),
        ([SERVICE], {"path": 'x"'}, "is not a path"),
        ([SERVICE], {"name": "a: b"}, "is not a policy's name"),
    ],
)
def test_a_policy_is_not_printed_for_what_it_cannot_say(
    identities: list[str], options: dict[str, str], words: str
) -> None:
    """Nothing that is not an identity, a path and a name gets into the policy."""
    with pytest.raises(InvalidInput, match=words):
        allowing_policy(identities, **{"path": "/x", "name": "drills", **options})


@pytest.mark.parametrize("path", ["", "x", "/a b", "/a\r\nx: y", '/"', "/ä", "/" + "a" * 1024])
def test_what_is_no_path_is_refused(path: str) -> None:
    """A path that would change the request, or the policy, is refused."""
    with pytest.raises(InvalidInput, match="is not a path"):
        check_path(path)
    check_path("/legation/drill?x=[1]")
