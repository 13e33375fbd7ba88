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


def test_policies_are_applied_listed_and_deleted(
    cli: CLI, authority: RunningAuthority, tmp_path: Path
) -> None:
    """What `show` prints is what `apply` takes."""
    at, file = authority.connection, tmp_path / "staleness.yaml"
    file.write_text(POLICIES)
    assert "staleness policy payments applied" in cli("staleness", "apply", "-f", file, *at).err
    assert "staleness policy payments unchanged" in cli("staleness", "apply", "-f", file, *at).err
    assert cli("staleness", "list", *at).out.splitlines()[2].split() == [
        "payments", "spiffe://example.org/payments/*", "30m", "refuse", "80%",
    ]  # fmt: skip
    file.write_text(cli("staleness", "show", "payments", *at).out)
    applied = cli("staleness", "apply", "-f", file, *at, "-o", "json").data
    assert applied["items"] == [{"name": "payments", "changed": False}]
    shown = cli("staleness", "show", "everyone", *at, "-o", "json").data
    assert (shown["kind"], shown["spec"]["bound"]) == ("StalenessPolicy", "2h")
    listed = cli("staleness", "list", *at, "-o", "json").data["items"]
    assert [one["metadata"]["name"] for one in listed] == ["everyone", "payments"]
    for name in ("everyone", "payments"):
        assert cli("staleness", "delete", name, *at).status == 0
    assert cli("staleness", "delete", "payments", *at).status == 5
    assert "new handshakes are refused" in cli("staleness", "list", *at).err


def test_a_file_with_a_mistake_changes_nothing(
    cli: CLI, authority: RunningAuthority, tmp_path: Path
) -> None:
    """The error begins with file and line; the other policy in the file is not applied."""
    at, file = authority.connection, tmp_path / "staleness.yaml"
    file.write_text(POLICIES.replace("then: refuse", "then: panic"))
    ended = cli("staleness", "apply", "-f", file, *at)
    assert ended.status == 2
    assert f"{file}:9: spec.then:" in ended.err
    assert cli("staleness", "list", *at, "-o", "json").data["items"] == []
    assert cli("staleness", "apply", *at).status == 2
