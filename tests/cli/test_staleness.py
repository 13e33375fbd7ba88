"""``legation staleness``, at a running authority and where it is refused."""

from pathlib import Path

from tests.cli.conftest import CLI, RunningAuthority

POLICIES = """\
apiVersion: legation/v1
kind: StalenessPolicy
metadata: {name: everyone}
spec: {to: ["spiffe://example.org/*"], bound: 2h, then: continue}
---
apiVersion: legation/v1
kind: StalenessPolicy
metadata: {name: payments}
spec: {to: ["spiffe://example.org/payments/*"], bound: 30m, then: refuse, warnAt: 80%}
"""
CALLERS = """\
apiVersion: legation/v1
kind: AuthorizationPolicy
metadata: {name: payments}
spec:
  target: {spiffeIDs: ["spiffe://example.org/payments/*"]}
  action: ALLOW
  rules: [{from: [{spiffeIDs: ["spiffe://example.org/web"]}]}]
"""


def test_policies_are_applied_listed_and_deleted(
    cli: CLI, authority: RunningAuthority, tmp_path: Path
) -> None:
    """What `show` prints is what `apply` takes."""
    at, file = authority.connection, tmp_path / "staleness.yaml"
    file.write_text(POLICIES)
    assert "staleness policy payments applied" in cli("policy", "apply", "-f", file, *at).err
    assert "staleness policy payments unchanged" in cli("policy", "apply", "-f", file, *at).err
    assert cli("staleness", "list", *at).out.splitlines()[2].split() == [
        "payments", "spiffe://example.org/payments/*", "30m", "refuse", "80%",
    ]  # fmt: skip
    file.write_text(cli("staleness", "show", "payments", *at).out)
    applied = cli("policy", "apply", "-f", file, *at, "-o", "json").data
    assert applied["items"] == [{"kind": "StalenessPolicy", "name": "payments", "changed": False}]
    shown = cli("staleness", "show", "everyone", *at, "-o", "json").data
    assert (shown["kind"], shown["spec"]["bound"]) == ("StalenessPolicy", "2h")
    listed = cli("staleness", "list", *at, "-o", "json").data["items"]
    assert [one["metadata"]["name"] for one in listed] == ["everyone", "payments"]
    for name in ("everyone", "payments"):
        assert cli("staleness", "delete", name, *at).status == 0
    assert cli("staleness", "delete", "payments", *at).status == 5
    assert "new handshakes are refused" in cli("staleness", "list", *at).err


def test_a_folder_may_hold_policies_of_both_kinds(
    cli: CLI, authority: RunningAuthority, tmp_path: Path
) -> None:
    """Each goes where it belongs, names are per kind, and a dry run leaves all as it was."""
    at, apply = authority.connection, ("policy", "apply", "-f", tmp_path)
    (tmp_path / "staleness.yaml").write_text(f"{POLICIES}---\n{CALLERS}")
    tried = cli(*apply, *at, "--dry-run")
    assert (tried.status, tried.err.splitlines()) == (0, [
        "staleness policy everyone would be applied",
        "staleness policy payments would be applied",
        "policy payments would be applied",
    ])  # fmt: skip
    for kind in ("policy", "staleness"):
        assert cli(kind, "list", *at, "-o", "json").data["items"] == []
    assert cli(*apply, *at).err == tried.err.replace("would be ", "")
    (tmp_path / "staleness.yaml").write_text(f"{POLICIES.replace('30m', '20m')}---\n{CALLERS}")
    tried = cli(*apply, *at, "--dry-run", "-o", "json")
    assert tried.data["dry_run"] is True
    assert tried.data["items"] == [
        {"kind": "StalenessPolicy", "name": "everyone", "changed": False},
        {"kind": "StalenessPolicy", "name": "payments", "changed": True},
        {"kind": "AuthorizationPolicy", "name": "payments", "changed": False},
    ]
    assert cli("staleness", "show", "payments", *at, "-o", "json").data["spec"]["bound"] == "30m"
    for kind, name in (
        ("policy", "payments"),
        ("staleness", "payments"),
        ("staleness", "everyone"),
    ):
        assert cli(kind, "delete", name, *at).status == 0


def test_a_call_is_explained_by_the_policies_among_others(cli: CLI, tmp_path: Path) -> None:
    """`explain -f` leaves staleness policies aside; where there is nothing else, it says so."""
    (tmp_path / "staleness.yaml").write_text(POLICIES)
    question = ("spiffe://example.org/web", "spiffe://example.org/payments/api", "--path", "/")
    ended = cli("policy", "explain", "-f", tmp_path, *question)
    assert (ended.status, "there is no AuthorizationPolicy" in ended.err) == (2, True)
    (tmp_path / "callers.yaml").write_text(CALLERS)
    assert "3 policies, all valid" in cli("policy", "validate", tmp_path).err
    assert cli("policy", "explain", "-f", tmp_path, *question).status == 0


def test_a_kind_that_is_not_known_is_refused(cli: CLI, tmp_path: Path) -> None:
    """The error has file, line and the kinds there are; no authority is asked."""
    file = tmp_path / "p.yaml"
    file.write_text(
        POLICIES.replace(
            "kind: StalenessPolicy\nmetadata: {name: p", "kind: StalePolicy\nmetadata: {name: p"
        )
    )
    ended = cli("policy", "apply", "-f", file)
    assert ended.status == 2
    assert (
        f'{file}:7: kind: "StalePolicy" is not accepted, did you mean "StalenessPolicy"?'
        in ended.err
    )
    assert "one of: AuthorizationPolicy, StalenessPolicy" in ended.err


def test_a_file_with_a_mistake_changes_nothing(
    cli: CLI, authority: RunningAuthority, tmp_path: Path
) -> None:
    """The error begins with file and line; the other policy in the file is not applied."""
    at, file = authority.connection, tmp_path / "staleness.yaml"
    file.write_text(POLICIES.replace("then: refuse", "then: panic"))
    ended = cli("policy", "apply", "-f", file, *at)
    assert ended.status == 2
    assert f"{file}:9: spec.then:" in ended.err
    assert cli("staleness", "list", *at, "-o", "json").data["items"] == []
