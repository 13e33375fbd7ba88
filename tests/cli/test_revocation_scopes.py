"""``legation revoke`` by agent, key and pattern, the second operator, and the board."""

from pathlib import Path

import pytest

from legation.cli.revocation_preview import show_preview
from tests.cli.conftest import CLI, RunningAuthority

ROOT = "spiffe://example.org"
OPERATORS = f"{ROOT}/legation/operator"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "give one of --serial, --identity, --agent, --join-token, --key"),
        (("--serial", "1", "--agent", "a"), "give one of"),
        (("--agent", "a", "--issued-before", "2031-01-01T00:00:00Z"), "goes with --identity"),
        (("--identity", f"{ROOT}/*"), "a pattern goes with --issued-before"),
        (("--identity", "nonsense"), "SPIFFE ID"),
        (("--serial", "1", "--reason", "removeFromCRL"), "removeFromCRL"),
    ],
)
def test_a_scope_is_named_once(
    cli: CLI, authority: RunningAuthority, arguments: tuple[str, ...], complaint: str
) -> None:
    """Anything else is wrong usage, and says how it is meant."""
    ended = cli("revoke", *arguments, *authority.connection)
    assert ended.status == 2
    assert complaint in ended.err


def test_a_dry_run_names_who_would_be_hit(cli: CLI, authority: RunningAuthority) -> None:
    """And changes nothing: the operator who asks is one of them."""
    at = authority.connection
    scope = ("--identity", f"{OPERATORS}/*", "--issued-before", "2020-01-01T00:00:00Z")
    nobody = cli("revoke", *scope, "--dry-run", *at)
    assert (nobody.status, "0 certificates" in nobody.err) == (0, True)
    shown = cli("revoke", "--identity", f"{OPERATORS}/admin", "--dry-run", *at)
    assert shown.status == 0, shown.err
    assert f"{OPERATORS}/admin" in shown.out
    assert "nothing has been changed" in shown.err
    assert "no enforcement point has reported a connection from or to them since 20" in shown.err
    data = cli("revoke", "--identity", f"{OPERATORS}/admin", "--dry-run", *at, "-o", "json").data
    assert data["identities"] == [{"spiffe_id": f"{OPERATORS}/admin", "count": data["count"]}]
    assert (data["traffic"], data["traffic_total"]) == ([], 0)
    assert cli("status", *at).status == 0


def test_a_dry_run_names_traffic_lately(capsys: pytest.CaptureFixture[str]) -> None:
    """Who calls, what, which of both is hit, how often and where; of many, how many more."""
    row = {
        "caller": f"{ROOT}/web", "service": f"{ROOT}/api", "caller_hit": False,
        "service_hit": True, "count": 42, "points": 3, "last_seen": "2031-03-01T12:00:00.000Z",
        "agent": f"{ROOT}/legation/agent/node-1", "point": "envoy/api",
    }  # fmt: skip
    one = {**row, "caller_hit": True, "points": 1}
    other = {**one, "service_hit": False}
    preview = {
        "count": 1, "identities": [], "requesters": [], "newest": [], "policies": [],
        "second_operator": False, "traffic": [row, one, other], "traffic_total": 3,
        "traffic_since": "2031-03-01T11:05:00.000Z",
    }  # fmt: skip
    show_preview(preview, output="table")
    shown = capsys.readouterr()
    lines = [line.split() for line in shown.out.splitlines() if line]
    assert lines[0] == ["CALLER", "CALLS", "HIT", "CONNECTIONS", "LAST", "SEEN", "SEEN", "BY"]
    assert lines[1][1:4] == [f"{ROOT}/api", "service", "42"]
    assert lines[1][-4:] == ["node-1", "envoy/api,", "2", "more"]
    assert [line[2] for line in lines[1:]] == ["service", "both", "caller"]
    assert lines[2][-2:] == ["node-1", "envoy/api"]
    assert "reported since 2031-03-01T11:05:00.000Z" in shown.err
    assert "more: -o json" not in shown.err
    show_preview({**preview, "traffic": [row] * 100, "traffic_total": 250}, output="table")
    assert "and 240 more: -o json" in capsys.readouterr().err


def test_a_key_is_named_by_a_file_a_serial_number_or_itself(
    cli: CLI, authority: RunningAuthority, tmp_path: Path
) -> None:
    """All three mean the same; the key is listed and its next certificate refused."""
    at = authority.connection
    assert cli(
        "operator", "create", "kim", "--role", "viewer", "--to", tmp_path / "kim", *at
    ).status == 0  # fmt: skip
    (row,) = cli(
        "certificate", "list", "--spiffe-id", f"{OPERATORS}/kim", *at, "-o", "json"
    ).data["items"]  # fmt: skip
    pem = tmp_path / "kim.pem"
    pem.write_text(cli("certificate", "show", row["serial"], "--pem", *at).out)
    for name in (pem, row["serial"], row["key_fingerprint"]):
        seen = cli("revoke", "--key", name, "--dry-run", *at, "-o", "json").data
        assert [each["serial"] for each in seen["newest"]] == [row["serial"]]
    done = cli("revoke", "--key", pem, "--wait", *at)
    assert done.status == 0, done.err
    assert f"the key {row['key_fingerprint']} is never certified again" in done.err
    assert row["key_fingerprint"] in cli("revocation", "list", *at).out
    assert cli("status", "--server", at[1], "--credential", tmp_path / "kim").status == 4
    missing = cli("revoke", "--key", "no/such.pem", *at)
    assert (missing.status, "no file and no serial number" in missing.err) == (2, True)


def test_a_hold_is_released(cli: CLI, authority: RunningAuthority, tmp_path: Path) -> None:
    """The operator is refused while it is on hold, and let in with the same certificate after."""
    at = authority.connection
    folder = tmp_path / "lee"
    cli("operator", "create", "lee", "--role", "viewer", "--to", folder, *at)
    as_lee = ("--server", at[1], "--credential", folder)
    assert cli("status", *as_lee).status == 0
    name = f"{OPERATORS}/lee"
    held = cli("revoke", "--identity", name, "--reason", "certificateHold", *at)
    assert held.status == 0, held.err
    assert cli("status", *as_lee).status == 4
    released = cli("revocation", "release", "--identity", name, *at)
    assert released.status == 0, released.err
    assert "1 certificates released" in released.err
    assert f"{name} may be issued again" in released.err
    assert cli("status", *as_lee).status == 0
    assert cli("revocation", "release", "--identity", name, "--serial", "1", *at).status == 2


def test_recalling_everything_waits_for_another_administrator(
    cli: CLI, authority: RunningAuthority, tmp_path: Path
) -> None:
    """Exit status 4 says that nothing has happened yet; the other one approves, or rejects."""
    at = authority.connection
    cli("operator", "create", "second", "--role", "admin", "--to", tmp_path / "second", *at)
    second = ("--server", at[1], "--credential", tmp_path / "second")
    scope = ("--identity", f"{ROOT}/*", "--issued-before", "2026-01-01T00:00:00Z")
    asked = cli("revoke", *scope, "--wait", *at)
    assert asked.status == 4
    assert "nothing is revoked yet" in asked.err
    assert "another administrator has to agree" in asked.err
    (row,) = cli("revocation", "pending", *at, "-o", "json").data["items"]
    assert (row["state"], row["scope"]["pattern"]) == ("pending", f"{ROOT}/*")
    assert row["id"] in cli("revocation", "pending", *at).out
    mine = cli("revocation", "approve", row["id"], *at)
    assert (mine.status, "cannot agree to it" in mine.err) == (4, True)
    done = cli("revocation", "approve", row["id"], "--wait", *second)
    assert (done.status, "0 certificates revoked" in done.err) == (0, True)
    assert "nothing waits" in cli("revocation", "pending", *at).err
    assert row["id"] in cli("revocation", "pending", "--all", *at).out
    cli("revoke", *scope, "--reason", "superseded", *at)
    (other,) = cli("revocation", "pending", *at, "-o", "json").data["items"]
    rejected = cli("revocation", "reject", other["id"], *at)
    assert (rejected.status, "is rejected" in rejected.err) == (0, True)
    assert cli("revocation", "approve", other["id"], *second).status == 6


def test_the_board_without_agents_says_so(cli: CLI, authority: RunningAuthority) -> None:
    """A list of nothing, and every connected point, none, has any revision."""
    at = authority.connection
    shown = cli("propagation", *at)
    assert (shown.status, "no agent has stated" in shown.err) == (0, True)
    assert cli("propagation", *at, "-o", "json").data["items"] == []
    reached = cli("propagation", "1", *at, "-o", "json")
    assert (reached.status, reached.data["propagation"]["complete"]) == (0, True)
    assert cli("propagation", "--", "-1", *at).status == 2
