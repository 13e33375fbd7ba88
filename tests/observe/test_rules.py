"""The alert rules: what they ask for exists, they fire when they must, and not otherwise."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs.links import anchors
from legation.observe.agent.definitions import METRICS as AGENT_METRICS
from legation.observe.authority.definitions import METRICS as AUTHORITY_METRICS
from legation.observe.metric import Type

ROOT = Path(__file__).parent.parent.parent
RULES = ROOT / "packaging" / "prometheus" / "legation.rules.yml"
ALERTS = {
    rule["alert"]: rule
    for group in yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]
}
DAY = 24 * 60

# For each alert: series by which it fires, by which it does not, and the minute to look at.
_OF_ENVOY = 'instance="ca",kind="envoy"'
_PROPAGATION = "legation_revocation_propagation_seconds"
_WITHIN, _ALL = (
    f'{_PROPAGATION}_bucket{{{_OF_ENVOY},le="1.0"}}',
    f"{_PROPAGATION}_count{{{_OF_ENVOY}}}",
)
_MISSED = f"legation_revocation_unacknowledged_total{{{_OF_ENVOY}}}"
_SIGNALS = 'legation_misuse_signals_open{instance="ca",kind="odd_rate",severity="warning"}'
_CONNECTED = 'legation_agent_connected{instance="n1"}'


def _points(standing: str) -> str:
    return f'legation_points{{{_OF_ENVOY},standing="{standing}"}}'


def _fresh(state: str) -> str:
    return f'legation_points_freshness{{{_OF_ENVOY},state="{state}"}}'


def _identities(state: str) -> str:
    return f'legation_agent_identities{{instance="n1",state="{state}"}}'


def _crl(which: str) -> str:
    return f"legation_crl_first_{which}_update_timestamp_seconds"


def _issuer(end: str) -> str:
    return f'legation_issuer_not_{end}_timestamp_seconds{{issuer="a",role="issuing"}}'


Series = dict[str, str]
CASES: list[tuple[str, Series, Series, int]] = [
    ("LegationAuthorityDown", {'up{job="legation-authority"}': "1 0x9"},
     {'up{job="legation-authority"}': "1 0 1x9"}, 5),
    ("LegationAuthorityDown", {'up{job="legation-agent"}': "1x9"},
     {'up{job="legation-authority"}': "1x9"}, 5),
    ("LegationAuthorityNotReady", {'legation_ready{part="store"}': "1 0x9"},
     {'legation_ready{part="store"}': "1x9"}, 5),
    # An hour of lifetime from 0 on: at 50 minutes a sixth is left, at 58 a thirtieth.
    ("LegationIssuerAboutToEnd",
     {_issuer("before"): "0x80", _issuer("after"): "4200x80"},
     {_issuer("before"): "0x80", _issuer("after"): "6000x80"}, 75),
    ("LegationPropagationLate", {_points("late"): "0 2x9"},
     {_points("late"): "0x9", _points("unreachable"): "2x9"}, 5),
    ("LegationRevocationNotAcknowledged", {_MISSED: "0x5 1x20"}, {_MISSED: "1x25"}, 10),
    ("LegationRevocationSlow", {_WITHIN: "0+97x30", _ALL: "0+100x30"},
     {_WITHIN: "0+100x30", _ALL: "0+100x30"}, 20),
    ("LegationRevocationSlow", {_WITHIN: "0+0x30", _ALL: "0+1x30"},
     {_WITHIN: "7x30", _ALL: "7x30"}, 20),
    ("LegationPointStaleSoon", {_fresh("stale_soon"): "0 1"},
     {_fresh("stale_soon"): "0x3", _fresh("fresh"): "9x3"}, 1),
    ("LegationPointStale", {_fresh("stale_refusing"): "0 1"},
     {_fresh("stale_refusing"): "0x3", _fresh("stale_soon"): "1x3"}, 1),
    ("LegationPointStale", {_fresh("stale_continuing"): "0 1"},
     {_fresh("stale_continuing"): "0x3"}, 1),
    # A list of an hour that is not renewed, and one that is every eighth of it.
    ("LegationCRLNearNextUpdate",
     {_crl("this"): "0x60", _crl("next"): "3600x60"},
     {_crl("this"): "0+60x60", _crl("next"): "3600+60x60"}, 40),
    ("LegationOCSPRefreshFailing", {"legation_ocsp_refresh_failures_total": "0+1x30"},
     {"legation_ocsp_refresh_failures_total": "0 1x30"}, 25),
    ("LegationDrillFailed", {"legation_drill_last_findings": "0 3"},
     {"legation_drill_last_findings": "3 0"}, 1),
    # Every quarter of an hour: see `_step`.
    ("LegationDrillNotRun", {"legation_drill_last_timestamp_seconds": "0x200"},
     {"legation_drill_last_timestamp_seconds": "0x50 43200x150"}, DAY + 60),
    ("LegationMisuseSignalOpen", {_SIGNALS: "0 1"}, {_SIGNALS: "1 0"}, 1),
    ("LegationPointUnreachable", {_points("unreachable"): "0 2x9"},
     {_points("unreachable"): "0 2 0x9", _points("connected"): "2x9",
      'legation_points{instance="ca",kind="agent",standing="unreachable"}': "1x9"}, 8),
    ("LegationAgentDisconnected", {_CONNECTED: "1 0x9"},
     {_CONNECTED: "1 0 1x9"}, 5),
    ("LegationAgentDown", {'up{job="legation-agent",instance="n1"}': "1 0x9"},
     {'up{job="legation-agent",instance="n1"}': "1x9", 'up{job="other"}': "0x9"}, 5),
    ("LegationCertificateNotRenewed", {_identities("failing"): "0 1x9"},
     {_identities("failing"): "0 1 0x9", _identities("current"): "9x9"}, 8),
    ("LegationCertificateNotRenewed", {_identities("missing"): "1x9"},
     {_identities("missing"): "1 0x9"}, 8),
    ("LegationCertificateNotRenewed", {"legation_agent_certificate_renewal_failing": "0 1x9"},
     {"legation_agent_certificate_renewal_failing": "0x9"}, 8),
    ("LegationCertificateNotInForce", {"legation_agent_certificates_not_in_force": "0 1x9"},
     {"legation_agent_certificates_not_in_force": "0 1 0x9"}, 5),
]  # fmt: skip


def _promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def _step(minute: int) -> str:
    """Return the distance of the samples of a case, and of the rules' evaluations."""
    return "15m" if minute >= DAY else "1m"


def _write(file: Path, tests: list[dict[str, Any]], *, step: str = "1m") -> Path:
    chosen = [test for test in tests if test["interval"] == step]
    document = {"rule_files": [str(RULES)], "evaluation_interval": step, "tests": chosen}
    file.write_text(yaml.safe_dump(document))
    return file


def _case(alert: str, series: Series, minute: int, *, fires: bool) -> dict[str, Any]:
    """Return one test of promtool: whether an alert is among those that fire."""
    return {
        "interval": _step(minute),
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f'count by (alertname) (ALERTS{{alertname="{alert}",alertstate="firing"}})',
                "eval_time": f"{minute}m",
                "exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": 1}]
                if fires
                else [],
            }
        ],
    }


def test_the_rules_are_in_order() -> None:
    """promtool accepts the file."""
    checked = _promtool("check", "rules", RULES)
    assert checked.returncode == 0, checked.stderr


def test_alerts_fire_when_they_must_and_not_otherwise(tmp_path: Path) -> None:
    """Each alert fires on series that call for it, and is silent on ones that nearly do."""
    tests = [_case(alert, series, at, fires=True) for alert, series, _, at in CASES]
    tests += [_case(alert, series, at, fires=False) for alert, _, series, at in CASES]
    files = [_write(tmp_path / f"{step}.yml", tests, step=step) for step in ("1m", "15m")]
    tested = _promtool("test", "rules", *files)
    assert tested.returncode == 0, tested.stderr + tested.stdout


def test_a_false_expectation_is_found(tmp_path: Path) -> None:
    """The test above can fail: an alert that should not fire, and does, is an error."""
    alert, series, _, minute = CASES[0]
    file = _write(tmp_path / "tests.yml", [_case(alert, series, minute, fires=False)])
    assert _promtool("test", "rules", file).returncode != 0


def test_every_alert_is_tested() -> None:
    """No alert is without a case."""
    assert {alert for alert, *_ in CASES} == set(ALERTS)


def test_rules_name_metrics_that_exist() -> None:
    """Every metric in a rule, and every label in braces, is one that the code exposes."""
    exposed: dict[str, tuple[str, ...]] = {}
    for metric in (*AUTHORITY_METRICS, *AGENT_METRICS):
        if metric.type is Type.HISTOGRAM:
            exposed[f"{metric.name}_bucket"] = (*metric.labels, "le")
            exposed[f"{metric.name}_count"] = metric.labels
        else:
            exposed[metric.name] = metric.labels
    for name, rule in ALERTS.items():
        used = re.findall(r"\b(legation_\w+)(?:\{([^}]*)\})?", rule["expr"])
        assert used or "up{" in rule["expr"], name
        for metric_name, selector in used:
            assert metric_name in exposed, name
            labels = set(re.findall(r"(\w+)\s*=", selector))
            assert labels <= set(exposed[metric_name]), name


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_every_alert_has_its_section_in_the_runbook(alert: str) -> None:
    """An alert says what is wrong, how bad it is, and leads to a section of its own."""
    rule = ALERTS[alert]
    assert rule["annotations"]["summary"]
    assert rule["labels"]["severity"] in {"warning", "critical"}
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    text = (ROOT / page).read_text()
    assert anchor == f"alert-{alert.lower()}"
    assert anchor in anchors(text)
    section = text.split(f"### Alert: {alert}\n")[1].split("\n### ")[0]
    assert "*Fires when*" in section
    assert re.search(r"\]\(|`legation |```sh", section), "nothing to look at"
