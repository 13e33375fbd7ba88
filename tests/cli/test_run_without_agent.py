"""`legation run` on a machine without an agent: it enrols by itself, and leaves nothing behind."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from legation.config.attestation import NodeAttestation
from legation.pki import certificates_from_pem
from tests.support.authority import ADMIN, World, agent_id, running, settings_for
from tests.support.identity_provider import served_in

AUDIENCE = "legation:ca.example.org"
SHOW = """
import json, os
found = {k: v for k, v in os.environ.items() if k.startswith(("LEGATION", "SPIFFE"))}
print(json.dumps({"environment": found, "chain": open(found["LEGATION_CHAIN_FILE"]).read()}))
raise SystemExit(7)
"""


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A CI system's issuer, over HTTPS."""
    with served_in(tmp_path_factory.mktemp("issuer")) as issuer:
        yield issuer


@pytest.fixture
async def world(tmp_path: Path, issuer: Any) -> AsyncIterator[World]:
    """An authority that lets the runs of one repository in."""
    rules = {
        "name": "ci",
        "issuer": issuer.issuer,
        "roots_file": str(issuer.roots),
        "audience": AUDIENCE,
        "require": {"repository": ["octo-org/app"]},
        "agent": "ci__{repository}__{run_id}",
        "allowed_agents": ["ci__octo-org_2f*"],
    }
    attestation = NodeAttestation.model_validate({"oidc": [rules]})
    async with running(settings_for(tmp_path, attestation=attestation)) as world:
        yield world


@dataclass(frozen=True, kw_only=True)
class Ended:
    status: int
    out: str
    err: str


async def run(world: World, *options: Any, argv: Any = None, **environment: str) -> Ended:
    """Run `legation run` against the authority; `environment` is added."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("LEGATION_", "ACTIONS_"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "legation", "run",
        "--authority", f"127.0.0.1:{world.api.port}", "--trust-bundle", str(world.roots),
        *map(str, options), "--", *(argv or [sys.executable, "-I", "-c", SHOW]),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**clean, **environment},
    )  # fmt: skip
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Ended(status=process.returncode, out=out.decode(), err=err.decode())


async def joining(world: World, tmp_path: Path, name: str = "job") -> Path:
    """Return a file with a join token for an agent."""
    _, token = await world.services.tokens.create(agent_id(name), lifetime_s=60, actor=ADMIN)
    file = tmp_path / "join-token"
    file.write_text(token)
    file.chmod(0o600)
    return file


def uid_entry(**fields: Any) -> dict[str, Any]:
    return {
        "spiffe_id": "spiffe://example.org/ci/app",
        "selectors": [f"unix:uid:{os.getuid()}"],
        **fields,
    }


async def test_a_join_token_is_enough(world: World, tmp_path: Path) -> None:
    """The program has its files and its socket; both are gone when it is, and so is the token."""
    await world.entry(**uid_entry(agents=[str(agent_id("job"))]))
    token = (await joining(world, tmp_path)).read_text()
    ended = await run(world, LEGATION_JOIN_TOKEN=token)
    assert ended.status == 7, ended.err
    found = json.loads(ended.out)
    assert found["environment"]["LEGATION_SPIFFE_ID"] == "spiffe://example.org/ci/app"
    assert "LEGATION_JOIN_TOKEN" not in found["environment"]
    assert len(certificates_from_pem(found["chain"])) == 2
    socket = Path(found["environment"]["SPIFFE_ENDPOINT_SOCKET"].removeprefix("unix://"))
    for folder in (socket.parent, Path(found["environment"]["LEGATION_IDENTITY_DIR"]).parent):
        assert not folder.exists()


async def test_a_token_lets_in_once(world: World, tmp_path: Path) -> None:
    """A second run with the same token is told so, and its program does not start."""
    await world.entry(**uid_entry(agents=[str(agent_id("job"))]))
    file = await joining(world, tmp_path)
    assert (await run(world, "--join-token-file", file)).status == 7
    mark = tmp_path / "mark"
    again = await run(world, "--join-token-file", file, argv=["touch", str(mark)])
    assert (again.status, again.out) == (4, "")
    assert "error: evidence_replayed: the join token was used already" in again.err
    assert not mark.exists()


async def test_a_ci_job_enrols_with_its_own_token(world: World, issuer: Any) -> None:
    """One entry serves every run of the repository, under a name that nobody knew before."""
    await world.entry(**uid_entry(agents=[f"{agent_id('ci__octo-org_2fapp__')}*"]))
    for number in ("77", "78"):
        token = issuer.token(aud=AUDIENCE, repository="octo-org/app", run_id=number)
        ended = await run(world, "--oidc-token-variable", "CI_TOKEN", CI_TOKEN=token)
        assert ended.status == 7, ended.err
    (row,) = [row for row in world.services.propagation.agents() if "__78" in str(row.spiffe_id)]
    assert str(row.spiffe_id) == str(agent_id("ci__octo-org_2fapp__78"))


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"aud": "somebody-else"}, "wrong_audience"),
        ({"repository": "octo-org/other"}, "claims_not_permitted"),
    ],
)
async def test_a_token_for_others_does_not_let_in(
    world: World, issuer: Any, claims: dict[str, str], words: str, tmp_path: Path
) -> None:
    """The cause is said, and the exit status is that of a refusal."""
    made = {"aud": AUDIENCE, "repository": "octo-org/app", "run_id": "1", **claims}
    file = tmp_path / "token"
    file.write_text(issuer.token(**made))
    file.chmod(0o600)
    ended = await run(world, "--oidc-token-file", file)
    assert (ended.status, ended.out) == (4, "")
    assert words in ended.err


async def test_without_an_entry_nothing_is_run(world: World, tmp_path: Path) -> None:
    """The program does not start, and what is missing is said."""
    file = await joining(world, tmp_path)
    ended = await run(world, "--join-token-file", file, "--wait", "2s")
    assert (ended.status, ended.out) == (7, "")
    assert "no identity" in ended.err
    assert f"remedy: have an entry that {agent_id('job')} may serve" in ended.err


async def test_the_identity_is_renewed_while_the_program_runs(world: World, tmp_path: Path) -> None:
    """A short-lived certificate is replaced in the files, and the program is told."""
    await world.entry(**uid_entry(agents=[str(agent_id("job"))], lifetime_s=4))
    file = await joining(world, tmp_path)
    script = (
        'got=0; trap "got=1" HUP; cat "$LEGATION_CHAIN_FILE";'
        ' while [ $got = 0 ]; do sleep 0.1; done; cat "$LEGATION_CHAIN_FILE"'
    )
    ended = await run(
        world, "--join-token-file", file, "--signal", "HUP", argv=["sh", "-c", script]
    )
    assert ended.status == 0, ended.err
    first, _, second, _ = certificates_from_pem(ended.out)
    assert first.serial_number != second.serial_number


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--socket", "/x"], "exclude each other"),
        (["--oidc-audience", AUDIENCE], "ACTIONS_ID_TOKEN_REQUEST_URL is not set"),
        (["--oidc-token-variable", "NOT_SET"], "NOT_SET is not set"),
        ([], "has no join token"),
    ],
)
async def test_what_is_missing_is_said(world: World, options: list[str], words: str) -> None:
    """Before anything is tried, in one line."""
    ended = await run(world, *options)
    assert ended.status in {2, 5}
    assert words in ended.err


def test_options_for_enrolling_go_with_an_authority() -> None:
    """Without one they would mean nothing, so they are refused."""
    ended = subprocess.run(
        [sys.executable, "-m", "legation", "run", "--trust-bundle", "x.pem", "--", "true"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert "--trust-bundle goes with --authority" in ended.stderr
