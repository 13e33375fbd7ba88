"""Staleness policies over REST: kept in the feed and the audit log, refused when they are none."""

from pathlib import Path
from typing import Any

from legation.policy import StalenessPolicy
from tests.support.authority import running, settings_for


def document(name: str = "payments", **spec: Any) -> dict[str, Any]:
    """Return a policy document."""
    return {
        "apiVersion": "legation/v1",
        "kind": "StalenessPolicy",
        "metadata": {"name": name},
        "spec": {"to": ["spiffe://example.org/*"], "bound": "30m", "then": "refuse"} | spec,
    }


async def test_a_policy_reaches_agents_and_the_audit_log(tmp_path: Path) -> None:
    """PUT is idempotent; agents are told of the policy, and of its end."""
    async with running(settings_for(tmp_path)) as world:
        agent, admin = await world.enrol(), world.connect(world.admin)
        async with agent.connected() as caller:
            stream = await caller.sync()
            await stream.events()
            first = await admin.ask("PUT", "/v1/staleness/payments", document())
            assert (first.status, first.json["changed"]) == (200, True)
            (told,) = stream.opened(await stream.events())
            policy = StalenessPolicy.from_document(told.value)
            assert (told.kind, told.key, policy.bound_s) == ("staleness", "payments", 1800)
            again = await admin.ask("PUT", "/v1/staleness/payments", document(warnAt="50%"))
            assert again.json["changed"] is False
            shown = await admin.ask("GET", "/v1/staleness/payments")
            assert shown.json == policy.to_document()
            assert (await admin.ask("GET", "/v1/staleness")).json["items"] == [shown.json]
            assert (await admin.ask("DELETE", "/v1/staleness/payments")).status == 204
            (ended,) = stream.opened(await stream.events())
            assert (ended.key, ended.value) == ("payments", None)
        entries = await world.services.audit.read(after=0, limit=100)
        assert [
            (entry.action, entry.subject) for entry in entries if "staleness" in entry.action
        ] == [("staleness.put", "payments"), ("staleness.delete", "payments")]


async def test_what_is_no_policy_is_refused_by_the_fields_name(tmp_path: Path) -> None:
    """Nothing of it is kept."""
    async with running(settings_for(tmp_path)) as world:
        admin = world.connect(world.admin)
        for body, words in (
            (document(bound="soon"), 'spec.bound: "soon" is not a duration'),
            (document("web"), "metadata.name is not 'payments'"),
            (document() | {"kind": "AuthorizationPolicy"}, "kind"),
        ):
            refused = await admin.ask("PUT", "/v1/staleness/payments", body)
            assert (refused.status, refused.code) == (400, "invalid_input")
            assert words in refused.json["detail"]
        missing = await admin.ask("GET", "/v1/staleness/payments")
        assert (missing.status, missing.code) == (404, "not_found")
        assert (await admin.ask("DELETE", "/v1/staleness/payments")).status == 404
        assert world.services.staleness.list() == []
