"""A real Prometheus scrapes a real authority and its agent, and answers what an operator asks."""

import asyncio
import contextlib
import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from legation.clock import SystemClock
from legation.config import AgentConfig, ServerConfig, load
from legation.config.ports import unused_port
from legation.observe.agent import agent_metrics
from legation.pki import SpiffeID
from tests.observe.conftest import ANYWHERE, Watched, joined
from tests.observe.test_rules import ALERTS, RULES
from tests.support.authority import ADMIN, TRUST_DOMAIN

_CONFIGURATION = """\
global: {{scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: legation-authority
    static_configs: [{{targets: ["127.0.0.1:{authority}"]}}]
  - job_name: legation-agent
    static_configs: [{{targets: ["127.0.0.1:{agent}"]}}]
"""


PAGE = RULES.parent.parent.parent / "docs" / "how-to" / "monitor.md"


def queries_of(text: str) -> list[str]:
    """Return the PromQL in a page's table of questions."""
    table = text.split("| question | PromQL |")[1].split("\n\n", maxsplit=1)[0]
    return [found.replace("\\|", "|") for found in re.findall(r"`([^`]*legation_[^`]*)`", table)]


class Prometheus:
    """A running Prometheus."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}/api/v1"

    async def ask(self, path: str, **parameters: str) -> Any:
        """Ask its API; None while it does not answer yet."""
        url = f"{self._base}/{path}?{urllib.parse.urlencode(parameters)}"

        def get() -> Any:
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
                return json.load(answer)["data"]

        return await asyncio.to_thread(get)

    async def value(self, query: str) -> float | None:
        """Return the one value that a query has now, or None."""
        found = await self.ask("query", query=query)
        if not found or not found["result"]:
            return None
        (one,) = found["result"]
        return float(one["value"][1])

    async def rules(self) -> list[dict[str, Any]]:
        """Return every rule, once each was evaluated."""
        while True:
            groups = (await self.ask("rules"))["groups"]
            rules = [rule for group in groups for rule in group["rules"]]
            if all(rule["health"] != "unknown" for rule in rules):
                return rules
            await asyncio.sleep(0.1)

    async def until(self, query: str, value: float) -> None:
        """Wait until a query has a value."""
        async with asyncio.timeout(20):
            while await self.value(query) != value:
                await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def prometheus(directory: Path, **ports: int) -> AsyncIterator[Prometheus]:
    """Run Prometheus on loopback, with the rules that are shipped."""
    configuration = directory / "prometheus.yml"
    configuration.write_text(_CONFIGURATION.format(rules=RULES, **ports))
    port = unused_port()
    process = await asyncio.create_subprocess_exec(
        "prometheus", f"--config.file={configuration}", f"--storage.tsdb.path={directory}/data",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
    )  # fmt: skip
    try:
        yield Prometheus(port)
    finally:
        process.terminate()
        await process.wait()


async def test_prometheus_sees_a_revocation_propagate(
    watched: Watched, tmp_path: Path, short_path: Path
) -> None:
    """Up, then revoked, then acknowledged in how many seconds; and the rules can be evaluated."""
    world = watched.world
    async with (
        joined(world, short_path) as agent,
        agent_metrics(agent, ANYWHERE, clock=SystemClock()) as agent_port,
        prometheus(tmp_path, authority=watched.port, agent=agent_port) as server,
    ):
        await server.until("sum(up)", 2)
        await server.until('legation_agent_identities{state="current"}', 1)
        count = 'legation_revocation_propagation_seconds_count{kind="agent"}'
        await server.until(count, 0)
        outcome = await world.services.revocations.revoke_identity(
            SpiffeID(TRUST_DOMAIN, "/api"), reason="keyCompromise", ban=True, actor=ADMIN
        )
        await server.until(count, 1)
        slowest = await server.value(
            'histogram_quantile(1, legation_revocation_propagation_seconds_bucket{kind="agent"})'
        )
        assert slowest is not None
        assert 0 < slowest <= 30
        await server.until(f"legation_agent_feed_revision >= bool {outcome.revision}", 1)
        await server.until('legation_points{kind="agent",standing="late"}', 0)
        rules = await server.rules()
        assert {rule["name"] for rule in rules} == set(ALERTS)
        assert {rule["health"] for rule in rules} == {"ok"}, rules
        for query in queries_of(PAGE.read_text()):
            assert await server.ask("query", query=query), query
        # Nobody has ever drilled here.
        states = {rule["name"]: rule["state"] for rule in rules}
        assert states.pop("LegationDrillNotRun") == "pending"
        assert states["LegationPropagationLate"] == "inactive"


def test_the_page_that_explains_it_is_right(tmp_path: Path) -> None:
    """Its files are what Legation and Prometheus read, and it names every alert."""
    text = PAGE.read_text()
    (scraped,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "prometheus.yml").write_text(scraped)
    shutil.copy(RULES, tmp_path)
    checked = subprocess.run(
        ["promtool", "check", "config", tmp_path / "prometheus.yml"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stderr
    server, agent = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "server.toml").write_text(f'trust_domain = "example.org"\n{server}')
    (tmp_path / "agent.toml").write_text(agent)
    for model, name in ((ServerConfig, "server"), (AgentConfig, "agent")):
        address = load(model, path=tmp_path / f"{name}.toml", flags={}).config.listen.metrics
        assert f'"{address}"' in scraped
    assert len(queries_of(text)) == 10
    assert set(re.findall(r"`(Legation\w+)`", text.split("| alert |")[1].split("\n\n")[0])) == set(
        ALERTS
    )
