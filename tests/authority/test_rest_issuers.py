"""Issuing CAs over REST: who may do what, and what is shown."""

from tests.support.authority import World


async def test_issuers_are_listed_and_replaced_by_administrators_only(world: World) -> None:
    """A viewer sees them; only an administrator replaces, activates and removes them."""
    admin = world.connect(world.admin)
    viewer = world.connect(await world.enlist(admin, "vera", "viewer"))
    operator = world.connect(await world.enlist(admin, "otto", "operator"))
    page = (await viewer.ask("GET", "/v1/issuers")).json["items"]
    assert sorted((row["role"], row["state"]) for row in page) == [
        ("issuing", "active"),
        ("root", "active"),
    ]
    (old,) = [row["key_id"] for row in page if row["role"] == "issuing"]
    for path in ("/v1/issuers", f"/v1/issuers/{old}/activate", f"/v1/issuers/{old}/remove"):
        assert (await operator.ask("POST", path, {})).status == 403
    tried = await admin.ask("POST", "/v1/issuers", {"dry_run": True})
    assert (tried.status, tried.json["key_id"], tried.json["needed"]) == (200, old, 4)
    agent = await world.enrol()
    made = await admin.ask("POST", "/v1/issuers", {"rate": 10})
    assert made.status == 200
    new = made.json["key_id"]
    refused = await admin.ask("POST", f"/v1/issuers/{new}/activate", {})
    assert (refused.status, refused.code) == (409, "conflict")
    assert str(agent.spiffe_id) in refused.json["detail"]
    shown = await viewer.ask("GET", f"/v1/issuers/{new}")
    assert shown.json["waiting_for"]["disconnected"] == [str(agent.spiffe_id)]
    active = await admin.ask("POST", f"/v1/issuers/{new}/activate", {"now": True})
    assert (active.status, active.json["state"]) == (200, "active")
    needed = await admin.ask("POST", f"/v1/issuers/{old}/remove")
    assert (needed.status, needed.code) == (409, "conflict")
    assert "still needed" in needed.json["detail"]
    who = {
        row["spiffe_id"]
        for row in (await viewer.ask("GET", f"/v1/issuers/{old}")).json["needed_by"]
    }
    assert str(agent.spiffe_id) in who
    assert (await viewer.ask("GET", f"/v1/issuers/{'0' * 40}")).status == 404
    assert (await viewer.ask("GET", "/v1/issuers/nonsense")).status in {400, 404}
