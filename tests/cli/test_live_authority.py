"""The commands against a real authority."""

import os
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.hashes import SHA256

from legation.cli.credential import OperatorCredential
from legation.cli.operator_files import OperatorRequest
from legation.pki import certificates_from_pem, certificates_to_pem, generate_key
from tests.cli.conftest import CLI, RunningAuthority
from tests.cli.test_values import POLICY

ROOT = "spiffe://example.org"
ENTRY = ("--selector", "unix:uid:0", "--agent", "node-1")


def test_init_leaves_private_files_only(authority: RunningAuthority) -> None:
    """Everything that `server init` wrote is readable by its owner alone."""
    for path in authority.directory.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode & 0o077 == 0, path


def test_init_refuses_a_second_time(cli: CLI, authority: RunningAuthority) -> None:
    """An authority is not made over another; the first one is unharmed."""
    ended = cli("server", "init", *authority.flags)
    assert ended.status == 6
    assert cli("status", *authority.connection).status == 0


def test_init_tells_what_to_do_next(cli: CLI, tmp_path: Path) -> None:
    """The next commands are printed as they have to be typed; JSON has the facts."""
    ended = cli("server", "init", "--trust-domain", "a.org", "--data-dir", tmp_path / "a")
    assert f"legation server run --trust-domain a.org --data-dir {tmp_path}/a" in ended.err
    assert "legation token create node-1 > join-token" in ended.err
    assert "root fingerprint" in ended.out
    data = cli(
        "server", "init", "--trust-domain", "a.org", "--data-dir", tmp_path / "b", "-o", "json"
    ).data
    assert data["trust_domain"] == "a.org"
    assert data["root_fingerprint"].startswith("sha256:")


def test_an_entry_for_agents_by_the_beginning_of_their_names(
    cli: CLI, authority: RunningAuthority
) -> None:
    """A name with a star becomes a pattern of SPIFFE IDs; one that means too many is refused."""
    at = authority.connection
    fields = ("--id", "ci", "--spiffe-id", f"{ROOT}/ci", "--selector", "unix:uid:0")
    made = cli("entry", "create", *fields, "--agent", "ci__octo-org_2fapp__*", *at, "-o", "json")
    assert made.status == 0, made.err
    assert made.data["agents"] == [f"{ROOT}/legation/agent/ci__octo-org_2fapp__*"]
    for name in ("*", "ci*", f"{ROOT}/legation/agent/*"):
        refused = cli("entry", "update", "ci", "--agent", name, *at)
        assert refused.status == 2
        assert "in the middle of a part" in refused.err
    assert cli("entry", "delete", "ci", *at).status == 0


def test_an_entry_lives(cli: CLI, authority: RunningAuthority) -> None:
    """Create, show, list, update and delete do what they say."""
    at = authority.connection
    made = cli(
        "entry", "create", "--id", "api", "--spiffe-id", f"{ROOT}/api", *ENTRY,
        "--lifetime", "30m", "--dns-name", "api.example.org", *at, "-o", "json",
    )  # fmt: skip
    assert made.status == 0, made.err
    assert made.data["lifetime_s"] == 1800
    assert made.data["agents"] == [f"{ROOT}/legation/agent/node-1"]
    assert cli("entry", "show", "api", *at, "-o", "json").data == made.data
    changed = cli("entry", "update", "api", "--lifetime", "1h", *at, "-o", "json").data
    assert changed == {**made.data, "lifetime_s": 3600}
    assert not made.data["must_staple"]
    for flag, obliged in (("--must-staple", True), ("--no-must-staple", False)):
        changed = cli("entry", "update", "api", flag, *at, "-o", "json").data
        assert changed == {**made.data, "lifetime_s": 3600, "must_staple": obliged}
    assert "api  " in cli("entry", "list", *at).out
    assert cli("entry", "delete", "api", *at).status == 0
    gone = cli("entry", "show", "api", *at)
    assert gone.status == 5
    assert gone.err.startswith("error: ")


@pytest.mark.parametrize(
    ("flags", "status"),
    [
        (("--spiffe-id", f"{ROOT}/legation/agent/x", *ENTRY), 2),
        (("--spiffe-id", "spiffe://other.org/api", *ENTRY), 2),
        (("--spiffe-id", f"{ROOT}/api", "--selector", "x", "--agent", "n"), 2),
    ],
)
def test_an_impossible_entry_is_refused(
    flags: tuple[str, ...], status: int, cli: CLI, authority: RunningAuthority
) -> None:
    """A reserved name, a foreign trust domain and a bad selector are refused."""
    assert cli("entry", "create", *flags, *authority.connection).status == status


def test_a_token_is_shown_once(cli: CLI, authority: RunningAuthority) -> None:
    """The secret alone is on stdout; the list has no secrets; a deleted token is gone."""
    at = authority.connection
    made = cli("token", "create", "node-7", *at)
    secret = made.out.strip()
    assert made.out == f"{secret}\n"
    assert f"{ROOT}/legation/agent/node-7" in made.err
    listed = cli("token", "list", *at, "-o", "json")
    assert secret not in listed.out
    found = [row for row in listed.data["items"] if row["agent"].endswith("node-7")]
    assert cli("token", "delete", found[0]["id"], *at).status == 0
    assert cli("token", "delete", found[0]["id"], *at).status == 5
    data = cli("token", "create", "node-8", "--lifetime", "10m", *at, "-o", "json").data
    assert data["token"]
    assert data["agent"].endswith("/node-8")


def test_policies_are_applied_and_explained(
    cli: CLI, authority: RunningAuthority, tmp_path: Path
) -> None:
    """Applying twice changes once; explain asks the authority; show reads back."""
    at = authority.connection
    path = tmp_path / "p.yaml"
    path.write_text(POLICY)
    assert "policy readers applied" in cli("policy", "apply", "-f", path, *at).err
    assert "policy readers unchanged" in cli("policy", "apply", "-f", path, *at).err
    allowed = cli("policy", "explain", f"{ROOT}/web", f"{ROOT}/api", *at)
    assert (allowed.status, allowed.out.split("\n")[0]) == (0, "allowed by policy readers, rule 0")
    assert cli("policy", "explain", f"{ROOT}/x", f"{ROOT}/api", *at).status == 1
    shown = tmp_path / "shown.yaml"
    shown.write_text(cli("policy", "show", "readers", *at).out)
    assert "unchanged" in cli("policy", "apply", "-f", shown, *at).err
    assert "readers" in cli("policy", "list", *at).out
    assert (
        cli("policy", "list", *at, "-o", "json").data["items"][0]["kind"] == "AuthorizationPolicy"
    )
    assert cli("policy", "delete", "readers", *at).status == 0
    assert cli("policy", "show", "readers", *at).status == 5


def test_the_inventory_is_listed_and_shown(cli: CLI, authority: RunningAuthority) -> None:
    """The operator's own certificate is in the inventory, PEM included."""
    at = authority.connection
    name = f"{ROOT}/legation/operator/admin"
    rows = cli("certificate", "list", "--spiffe-id", name, *at, "-o", "json").data["items"]
    serial = rows[0]["serial"]
    pem = cli("certificate", "show", serial, "--pem", *at).out
    (shown,) = certificates_from_pem(pem)
    assert format(shown.serial_number, "x") == serial
    assert "pem" not in cli("certificate", "show", serial, *at).out
    assert cli("certificate", "show", "abc", *at).status == 5


def test_a_revocation_is_reported_and_a_ban_lifted(
    cli: CLI, authority: RunningAuthority, tmp_path: Path
) -> None:
    """Revoking tells what it did; lifting ends the ban and says what stays."""
    at = authority.connection
    made = cli("operator", "create", "mallory", "--role", "viewer", "--to", tmp_path / "m", *at)
    assert made.status == 0, made.err
    name = f"{ROOT}/legation/operator/mallory"
    outcome = cli("revoke", "--identity", name, "--reason", "keyCompromise", "--wait", *at,
                  "-o", "json")  # fmt: skip
    assert outcome.status == 0, outcome.err
    assert [row["spiffe_id"] for row in outcome.data["revoked"]] == [name]
    assert outcome.data["banned"] == name
    assert outcome.data["propagation"]["complete"] is True
    refused = cli("status", "--server", at[1], "--credential", tmp_path / "m")
    assert refused.status == 4
    assert name in cli("revocation", "list", *at).out
    lifted = cli("revocation", "lift", name, *at)
    assert (lifted.status, "stay revoked" in lifted.err) == (0, True)
    assert cli("revocation", "list", *at, "-o", "json").data["bans"] == []
    assert cli("revocation", "lift", name, *at).status == 5


def test_roles_bind(cli: CLI, authority: RunningAuthority, tmp_path: Path) -> None:
    """A viewer reads and may not write; a disabled one may do nothing."""
    at = authority.connection
    assert cli(
        "operator", "create", "eve", "--role", "viewer", "--to", tmp_path / "eve", *at
    ).status == 0  # fmt: skip
    as_eve = ("--server", at[1], "--credential", tmp_path / "eve")
    assert cli("status", *as_eve).status == 0
    refused = cli("entry", "create", "--spiffe-id", f"{ROOT}/e", *ENTRY, *as_eve)
    assert refused.status == 4
    assert "eve" in cli("operator", "list", *at).out
    assert cli("operator", "disable", "eve", *at).status == 0
    assert cli("status", *as_eve).status == 4


def test_a_key_that_never_leaves_its_owner(
    cli: CLI, authority: RunningAuthority, tmp_path: Path
) -> None:
    """With --csr only the chain comes back, and it certifies the requester's key."""
    key = generate_key()
    csr = tmp_path / "bob.csr"
    csr.write_text(OperatorRequest.make(private_key=key).pem)
    made = cli(
        "operator", "create", "bob", "--role", "operator", "--csr", csr, "--to", tmp_path / "bob",
        *authority.connection,
    )  # fmt: skip
    assert made.status == 0, made.err
    chain = certificates_from_pem((tmp_path / "bob" / "operator.pem").read_bytes())
    assert chain[0].public_key() == key.public_key()
    assert len(certificates_to_pem(chain)) > 0


def test_renewal_replaces_the_credential(
    cli: CLI, authority: RunningAuthority, tmp_path: Path
) -> None:
    """`operator renew` writes a new key and certificate that work."""
    at = authority.connection
    cli("operator", "create", "carol", "--role", "viewer", "--to", tmp_path / "c", *at)
    before = OperatorCredential.load(tmp_path / "c")
    as_carol = ("--server", at[1], "--credential", tmp_path / "c")
    assert cli("operator", "renew", *as_carol).status == 0
    after = OperatorCredential.load(tmp_path / "c")
    assert after.leaf.serial_number != before.leaf.serial_number
    assert after.leaf.public_key() != before.leaf.public_key()
    assert cli("status", *as_carol).status == 0


def test_the_audit_log_says_who(cli: CLI, authority: RunningAuthority) -> None:
    """The log begins with the initialisation; paging goes on where it ended."""
    at = authority.connection
    first = cli("audit", "list", "--limit", "2", *at, "-o", "json").data["items"]
    assert first[0]["action"] == "authority.initialise"
    rest = cli("audit", "list", "--after", first[1]["sequence"], *at, "-o", "json").data["items"]
    assert rest[0]["sequence"] == first[1]["sequence"] + 1


def test_the_bundle_shows_the_fingerprint_that_agents_enrol_under(
    cli: CLI, authority: RunningAuthority
) -> None:
    """The root's fingerprint is that of the credential's bundle; PEM is that bundle."""
    at = authority.connection
    pem = (authority.credential / "bundle.pem").read_text()
    (root,) = certificates_from_pem(pem)
    data = cli("bundle", "show", *at, "-o", "json").data
    fingerprint = f"sha256:{root.fingerprint(SHA256()).hex()}"
    assert [row["fingerprint"] for row in data["items"]] == [fingerprint]
    assert data["document"]["keys"]
    assert fingerprint in cli("bundle", "show", *at).out
    assert cli("bundle", "show", "--pem", *at).out == pem


def test_break_glass_needs_a_stopped_authority(
    cli: CLI, authority: RunningAuthority, tmp_path: Path
) -> None:
    """While the authority runs, its store is not touched by another process."""
    ended = cli("server", "operator-certificate", *authority.flags, "--to", tmp_path / "x")
    assert ended.status == 6
    assert not (tmp_path / "x").exists()


def test_break_glass_makes_an_admin(cli: CLI, tmp_path: Path) -> None:
    """With the authority stopped, a new admin is certified and audited."""
    flags = ("--trust-domain", "a.org", "--data-dir", tmp_path / "a")
    assert cli("server", "init", *flags).status == 0
    ended = cli("server", "operator-certificate", *flags, "--operator", "rescue",
                "--to", tmp_path / "rescue")  # fmt: skip
    assert ended.status == 0, ended.err
    credential = OperatorCredential.load(tmp_path / "rescue")
    assert str(credential.spiffe_id) == "spiffe://a.org/legation/operator/rescue"


def test_a_restore_has_to_be_meant(cli: CLI, authority: RunningAuthority) -> None:
    """Without the word for it nothing happens, and while the authority runs neither."""
    ended = cli("server", "restore", *authority.flags)
    assert ended.status == 2
    assert "--accept-loss" in ended.err
    assert cli("server", "restore", *authority.flags, "--accept-loss").status == 6


def test_a_copy_is_restored(cli: CLI, tmp_path: Path) -> None:
    """What it knows is in force again, and the command says until when that was."""
    flags = ("--trust-domain", "a.org", "--data-dir", tmp_path / "a")
    assert cli("server", "init", *flags).status == 0
    copy = tmp_path / "copy"
    copy.write_bytes((tmp_path / "a" / "authority.db").read_bytes())
    ended = cli("server", "restore", *flags, "--accept-loss", copy, "-o", "json")
    assert ended.status == 0, ended.err
    assert ended.data["trust_domain"] == "a.org"
    assert ended.data["revocation_lists"] == 2
    assert ended.data["revision"] > 1_000_000_000
    assert Path(ended.data["set_aside"]).exists()
    there = tmp_path / "b"
    there.mkdir(mode=0o700)
    key = there / "key-encryption-key"
    key.touch(mode=0o600)
    key.write_bytes((tmp_path / "a" / key.name).read_bytes())
    flags = ("--trust-domain", "a.org", "--data-dir", there)
    table = cli("server", "restore", *flags, "--accept-loss", copy)
    assert table.status == 0, table.err
    assert f"revoked after {ended.data['copy_ends_at']}" in table.err


def test_curl_can_use_the_credential(authority: RunningAuthority) -> None:
    """The files are plain PEM: another client is served with them as they are."""
    ended = subprocess.run(
        ["curl", "-sSf", "--cacert", authority.credential / "bundle.pem",
         "--cert", authority.credential / "operator.pem",
         f"https://localhost:{authority.port}/v1/status"],
        capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert '"trust_domain":"example.org"' in ended.stdout.replace(" ", "")


def test_the_agent_status_needs_an_agent(cli: CLI, tmp_path: Path) -> None:
    """With nobody on the socket the command ends with 3."""
    ended = cli("status", "--agent", tmp_path / "agent.sock")
    assert ended.status == 3
    assert "no agent answers" in ended.err
