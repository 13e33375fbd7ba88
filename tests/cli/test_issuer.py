"""``legation issuer`` and ``legation revoke --issuer`` against a running authority."""

from tests.cli.conftest import CLI, RunningAuthority


def _rows(cli: CLI, authority: RunningAuthority, state: str) -> list[dict[str, object]]:
    items = cli("issuer", "list", *authority.connection, "-o", "json").data["items"]
    return [row for row in items if (row["role"], row["state"]) == ("issuing", state)]


def test_the_issuer_is_replaced_by_one_command(cli: CLI, authority: RunningAuthority) -> None:
    """It signs, whoever asked has a certificate of it, and the one before can be removed."""
    at = authority.connection
    (old,) = _rows(cli, authority, "active")
    tried = cli("issuer", "replace", "--dry-run", *at)
    assert tried.status == 0, tried.err
    assert f"certificates are of the issuer {old['key_id']}" in tried.err
    assert _rows(cli, authority, "active") == [old]
    early = cli("issuer", "remove", str(old["key_id"]), *at)
    assert (early.status, "is active" in early.err) == (6, True)
    done = cli("issuer", "replace", "--now", "--wait", "--timeout", "60", *at, "-o", "json")
    assert done.status == 0, done.err
    assert "nobody needs another" in done.err
    assert done.data["state"] == "active"
    assert done.data["key_id"] != old["key_id"]
    again = cli("issuer", "activate", done.data["key_id"], *at)
    assert again.status == 0, again.err
    removed = cli("issuer", "remove", str(old["key_id"]), *at, "-o", "json")
    assert (removed.status, removed.data["state"]) == (0, "removed"), removed.err
    assert "removed" in cli("issuer", "show", str(old["key_id"]), *at).out
    gone = cli("revoke", "--issuer", str(old["key_id"]), *at)
    assert (gone.status, "removed already" in gone.err) == (6, True)
    unknown = cli("issuer", "show", "00" * 20, *at)
    assert (unknown.status, "no issuer" in unknown.err) == (5, True)


def test_revoking_an_issuer_names_whom_it_hits_and_waits_for_another_administrator(
    cli: CLI, authority: RunningAuthority
) -> None:
    """Tried out, it says whose certificates are of it; asked for, it waits to be agreed to."""
    at = authority.connection
    (active,) = _rows(cli, authority, "active")
    scope = ("revoke", "--issuer", str(active["key_id"]))
    tried = cli(*scope, "--dry-run", *at)
    assert tried.status == 0, tried.err
    assert "legation/operator/admin" in tried.out
    assert "another administrator would have to agree" in tried.err
    asked = cli(*scope, "--at-once", *at)
    assert (asked.status, "another administrator has to agree" in asked.err) == (4, True)
    assert _rows(cli, authority, "active")
    wrong = cli("revoke", "--serial", "1", "--at-once", *at)
    assert (wrong.status, "--at-once goes with --issuer" in wrong.err) == (2, True)
