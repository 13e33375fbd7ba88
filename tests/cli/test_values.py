"""What arguments, flags and files may say."""

from datetime import UTC, datetime
from pathlib import Path

import click
import pytest

from legation.cli.arguments import (
    DURATION,
    MAX_STDIN,
    MOMENT,
    SERIAL,
    SPIFFE_ID,
    agent_id,
    read_input,
)
from legation.cli.policy_files import read_policies, to_yaml
from legation.cli.proxy_flags import proxy_spec
from legation.envoy.spec import Inbound, Outbound, Protocol
from legation.errors import InvalidInput, NotFound

POLICY = """\
apiVersion: legation/v1
kind: AuthorizationPolicy
metadata: {name: readers}
spec:
  target: {spiffeIDs: ["spiffe://example.org/api"]}
  action: ALLOW
  rules:
    - from: [{spiffeIDs: ["spiffe://example.org/web"]}]
"""


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (DURATION, "90s", 90),
        (DURATION, "1h30m", 5400),
        (DURATION, "45", 45),
        (SERIAL, "0x00AB:cd", "abcd"),
        (SERIAL, "0", "0"),
        (SPIFFE_ID, "spiffe://example.org/a", "spiffe://example.org/a"),
        (MOMENT, "2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
    ],
)
def test_values_are_read(kind: click.ParamType[object], text: str, value: object) -> None:
    """Durations, serial numbers, SPIFFE IDs and moments become plain values."""
    assert kind.convert(text, None, None) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (DURATION, "soon"),
        (DURATION, "-1"),
        (SERIAL, ""),
        (SERIAL, "f" * 41),
        (SERIAL, "12g"),
        (SPIFFE_ID, "https://example.org/a"),
        (SPIFFE_ID, "spiffe://example.org/a\n"),
        (MOMENT, "2026-01-31T12:00:00"),
        (MOMENT, "today"),
    ],
)
def test_bad_values_are_usage_errors(kind: click.ParamType[object], text: str) -> None:
    """What is none is refused as wrong usage, with the value quoted."""
    with pytest.raises(click.BadParameter):
        kind.convert(text, None, None)


def test_an_agent_goes_by_name_or_by_identity() -> None:
    """A bare name becomes the agent's SPIFFE ID; a whole ID stays; nonsense is refused."""
    whole = "spiffe://example.org/legation/agent/node-1"
    assert agent_id("node-1", "example.org") == whole
    assert agent_id(whole, "other.org") == whole
    with pytest.raises(InvalidInput):
        agent_id("node 1", "example.org")


def test_files_are_read_within_bounds(tmp_path: Path) -> None:
    """A missing file, a folder and a huge file each have their own error."""
    path = tmp_path / "x"
    with pytest.raises(NotFound, match="there is no file"):
        read_input(str(path))
    with pytest.raises(InvalidInput, match="Is a directory"):
        read_input(str(tmp_path))
    path.write_bytes(b"x" * (MAX_STDIN + 1))
    with pytest.raises(InvalidInput, match="larger than"):
        read_input(str(path))


def test_proxy_flags_become_a_specification() -> None:
    """Inbound and outbound flags say where, whom and which protocol."""
    spec = proxy_spec(
        "api",
        inbound=["0.0.0.0:8443=127.0.0.1:8080", "[::1]:9000=[::1]:9001,protocol=tcp"],
        outbound=["127.0.0.1:1234=spiffe://example.org/db@db.example.org:5432,protocol=http2"],
        spiffe_id="spiffe://example.org/api",
    )
    assert spec.inbound == (
        Inbound(listen="0.0.0.0:8443", app="127.0.0.1:8080"),
        Inbound(listen="[::1]:9000", app="[::1]:9001", protocol=Protocol.TCP),
    )
    assert spec.outbound == (
        Outbound(
            listen="127.0.0.1:1234",
            upstream="db.example.org:5432",
            spiffe_id="spiffe://example.org/db",
            protocol=Protocol.HTTP2,
        ),
    )
    assert spec.spiffe_id == "spiffe://example.org/api"


@pytest.mark.parametrize(
    ("inbound", "outbound", "said"),
    [
        ("8443", None, "not of the form LISTEN=APP"),
        ("127.0.0.1:1=127.0.0.1:x", None, "not an address"),
        ("127.0.0.1:1=127.0.0.1:2,protocol=htp", None, "did you mean http"),
        ("127.0.0.1:1=127.0.0.1:2,protcol=tcp", None, "did you mean protocol"),
        ("127.0.0.1:1=127.0.0.1:2,protocol=tcp,protocol=http", None, "no place here"),
        (None, "127.0.0.1:1=db:5432", "who must answer"),
        (None, "127.0.0.1:1=https://x/@db:5432", "SPIFFE ID"),
    ],
)
def test_bad_proxy_flags_quote_themselves(
    inbound: str | None, outbound: str | None, said: str
) -> None:
    """A malformed flag is quoted in the error, with what was probably meant."""
    with pytest.raises(InvalidInput, match=r"--(in|out)bound") as caught:
        proxy_spec(
            "x",
            inbound=[inbound] if inbound else [],
            outbound=[outbound] if outbound else [],
            spiffe_id=None,
        )
    assert said in f"{caught.value.message} {caught.value.remedy}"


def test_policies_come_from_files_and_folders(tmp_path: Path) -> None:
    """Several documents and several files are read in order; what is written reads back."""
    (tmp_path / "b.yaml").write_text(f"---\n{POLICY}---\n{POLICY.replace('readers', 'more')}---\n")
    (tmp_path / "a.yml").write_text(POLICY.replace("readers", "first"))
    (tmp_path / "notes.txt").write_text("not a policy")
    found = read_policies((str(tmp_path),))
    assert [policy.name for policy in found] == ["first", "readers", "more"]
    (tmp_path / "c.yaml").write_text(to_yaml([policy.to_document() for policy in found]))
    assert read_policies((str(tmp_path / "c.yaml"),)) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no policy in what was given"),
        (POLICY + "  action: DENY\n", "p.yaml:9: spec.action: stands here twice"),
        ("&a [*a]", "p.yaml:1: "),
        (
            POLICY.replace("rules", "rulez"),
            'p.yaml:7: spec.rulez: unknown field, did you mean "rules"',
        ),
        (f"{POLICY}---\n{POLICY}", "p.yaml:12: the policy readers is at"),
    ],
)
def test_a_bad_policy_file_is_located(text: str, said: str, tmp_path: Path) -> None:
    """Every mistake names the file and where in it; YAML's traps are mistakes too."""
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(InvalidInput) as caught:
        read_policies((str(path),))
    assert said in caught.value.message
