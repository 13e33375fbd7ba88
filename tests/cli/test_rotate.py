"""Rotation on order, and agents that are enrolled again, on the command line."""

from pathlib import Path

from legation.agent.identity import IdentityStore
from tests.cli.conftest import CLI, RunningAuthority

ROOT = "spiffe://example.org"


def token_for(cli: CLI, authority: RunningAuthority, name: str, directory: Path) -> str:
    made = cli("token", "create", name, *authority.connection)
    assert made.status == 0, made.err
    file = directory / f"token-{name}"
    file.touch(mode=0o600)
    file.write_text(made.out)
    return str(file)


def enrol(cli: CLI, authority: RunningAuthority, data: Path, token: str, *more: str):
    return cli(
        *("agent", "enrol", "--join-token-file", token, "--data-dir", str(data)),
        *("--trust-bundle", str(authority.credential / "bundle.pem")),
        *("--authority", authority.connection[1], *more),
    )


def test_an_agent_is_enrolled_and_enrolled_again(
    cli: CLI, authority: RunningAuthority, tmp_path: Path
) -> None:
    """An agent is enrolled without being run; again only when told so, and as itself only."""
    data = tmp_path / "data"
    first = enrol(cli, authority, data, token_for(cli, authority, "again-1", tmp_path))
    assert first.status == 0, first.err
    assert f"{ROOT}/legation/agent/again-1 is enrolled until" in first.err
    before = IdentityStore(data).load()[0]

    token = token_for(cli, authority, "again-1", tmp_path)
    refused = enrol(cli, authority, data, token)
    assert refused.status == 6
    assert "--again" in refused.err

    # What it trusts and where it asks is known by now.
    again = cli(*("agent", "enrol", "--again", "--join-token-file", token, "--data-dir", str(data)))
    assert again.status == 0, again.err
    after = IdentityStore(data).load()[0]
    assert after.spiffe_id == before.spiffe_id
    assert after.serial != before.serial

    other = enrol(cli, authority, data, token_for(cli, authority, "again-2", tmp_path), "--again")
    assert other.status == 6
    assert "again-2" in other.err
    assert IdentityStore(data).load()[0].serial == after.serial


def test_a_rotation_is_tried_and_ordered(
    cli: CLI, authority: RunningAuthority, tmp_path: Path
) -> None:
    """Tried, a rotation tells how many it concerns; ordered, it has a name, and who is away is
    told with --wait.
    """
    token = token_for(cli, authority, "rotated", tmp_path)
    assert enrol(cli, authority, tmp_path / "data", token).status == 0
    at = authority.connection
    agent = f"{ROOT}/legation/agent/rotated"
    tried = cli("rotate", "--agent", agent, "--dry-run", *at)
    assert tried.status == 0, tried.err
    assert "1 certificate would be replaced" in tried.err
    ordered = cli("rotate", "--agent", agent, "--id", "drill", "--wait", *at)
    assert ordered.status == 0, ordered.err
    assert f"disconnected: {agent}" in ordered.err
    again = cli("rotate", "--agent", agent, "--id", "drill", "-o", "json", *at)
    assert again.data["id"] == "drill"
    assert cli("certificate", "in-force", *at).status == 0
    assert cli("status", *at).status == 0


def test_what_cannot_be_rotated_is_refused(cli: CLI, authority: RunningAuthority) -> None:
    """No scope, or two, is a usage error; an identity that nobody serves is not found."""
    at = authority.connection
    assert cli("rotate", *at).status == 2
    assert cli("rotate", "--all", "--identity", f"{ROOT}/x", *at).status == 2
    unknown = cli("rotate", "--identity", f"{ROOT}/nobody", *at)
    assert unknown.status == 5
    assert "legation entry list" in unknown.err


def test_an_authority_without_drills_says_how_to_hold_one(
    cli: CLI, authority: RunningAuthority
) -> None:
    """Nothing on record is not a failure; the next step is named."""
    ended = cli("drill", "list", *authority.connection)
    assert ended.status == 0
    assert "no drill was held: legation drill revocation" in ended.err
