"""Tools that are not ours agree with us: OpenSSL, curl and pkilint."""

import asyncio
import json
import re
import sys
from pathlib import Path

import pytest

from legation.demo.deployment import TRUST_DOMAIN, Deployment
from legation.demo.stage import own_selector
from legation.demo.workload import fetch_identities
from tests.system.conftest import MakeDeployment, create_entry, start_pair

pytestmark = pytest.mark.together

# pkilint takes every spiffe:// URI for a broken one, and localhost for a broken domain.
PKILINT_FALSE_ERRORS = ("invalid_uri_syntax", "invalid_domain_name", "invalid_domain_name_syntax")


async def _run(*argv: str | Path, stdin: bytes | None = None) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *map(str, argv),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate(stdin or b"")
    return process.returncode or 0, output.decode(errors="replace")


async def _fetch_status(deployment: Deployment, path: str, to: Path) -> Path:
    code, text = await _run(
        "curl", "-sSf", "-o", to, f"http://127.0.0.1:{deployment.ports.status}{path}"
    )
    assert code == 0, text
    return to


@pytest.mark.envoy
@pytest.mark.timeout(120)
async def test_openssl_and_curl_agree_with_us(make_deployment: MakeDeployment) -> None:
    """OpenSSL verifies what was issued and sees revocation; curl is served until revoked."""
    deployment = await make_deployment()
    work = deployment.directory / "work"
    work.mkdir()
    for name in ("partner", "reports"):
        await create_entry(deployment, name, own_selector())
    inbound = (await start_pair(deployment, "--dns-name", "localhost")).inbound
    async with asyncio.timeout(20):
        while len(found := await fetch_identities(deployment.socket, work)) < 2:
            await asyncio.sleep(0.05)
    partner = found[f"spiffe://{TRUST_DOMAIN}/partner"].credential
    reports = found[f"spiffe://{TRUST_DOMAIN}/reports"].credential
    authorities = await _fetch_status(deployment, "/ca.pem", work / "ca.pem")

    verify = ["openssl", "verify", "-x509_strict", "-purpose", "sslclient"]
    verify += ["-CAfile", str(authorities)]
    code, text = await _run(*verify, partner)
    assert code == 0, text

    client = ["openssl", "s_client", "-connect", f"127.0.0.1:{inbound}", "-tls1_3", "-quiet"]
    client += ["-CAfile", str(authorities), "-verify_return_error", "-servername", "localhost"]
    request = b"GET /api/data HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    code, text = await _run(*client, "-cert", partner, "-key", partner, stdin=request)
    assert "hello from the API" in text, text
    assert f"spiffe://{TRUST_DOMAIN}/partner" in text

    curl = ["curl", "-sS", "--cacert", str(authorities), f"https://localhost:{inbound}/api/data"]
    code, text = await _run(*curl, "--cert", partner)
    assert code == 0, text
    assert json.loads(text)["caller"] == f"spiffe://{TRUST_DOMAIN}/partner"

    partner_id = f"spiffe://{TRUST_DOMAIN}/partner"
    outcome = await deployment.cli_json("revoke", "--identity", partner_id, "--wait")
    assert outcome["revoked"]
    code, text = await _run(*curl, "--cert", partner)
    assert code != 0 or "hello" not in text
    code, text = await _run(*curl, "--cert", reports)
    assert code == 0, text

    code, text = await _run(
        "openssl", "x509", "-in", partner, "-noout", "-ext", "crlDistributionPoints"
    )
    url = text.split("URI:")[1].split()[0]
    assert url.startswith(f"http://127.0.0.1:{deployment.ports.status}/crl/")
    async with asyncio.timeout(10):
        while True:
            await _fetch_status(
                deployment, url.split(str(deployment.ports.status))[1], work / "l.crl"
            )
            code, text = await _run(
                "openssl",
                "crl",
                "-inform",
                "DER",
                "-in",
                work / "l.crl",
                "-text",
                "-CAfile",
                authorities,
            )
            if "Serial Number" in text:
                break
            await asyncio.sleep(0.05)
    assert "verify OK" in text
    await _run("openssl", "crl", "-inform", "DER", "-in", work / "l.crl", "-out", work / "l.pem")
    check = [*verify, "-crl_check", "-CRLfile", str(work / "l.pem")]
    code, text = await _run(*check, partner)
    assert code != 0
    assert "certificate revoked" in text
    code, text = await _run(*check, reports)
    assert code == 0, text


@pytest.mark.timeout(120)
async def test_pkilint_is_content_with_everything_that_was_issued(
    make_deployment: MakeDeployment,
) -> None:
    """No certificate in the inventory, no authority certificate and no list has a finding."""
    deployment = await make_deployment()
    work = deployment.directory / "work"
    work.mkdir()
    await create_entry(deployment, "api", "unix:uid:0", "--dns-name", "api.example.org")
    async with asyncio.timeout(20):
        while True:
            page = await deployment.cli_json("certificate", "list", "--limit", "100")
            if any(row["spiffe_id"].endswith("/api") for row in page["items"]):
                break
            await asyncio.sleep(0.1)
    paths = []
    for row in page["items"]:
        shown = await deployment.cli_json("certificate", "show", row["serial"])
        path = work / f"{row['profile']}-{row['serial']}.pem"
        path.write_text(shown["pem"])
        paths.append(path)
    profiles = {row["profile"] for row in page["items"]}
    assert {"workload", "agent"} <= profiles
    linter = Path(sys.executable).with_name("lint_pkix_cert")
    for path in paths:
        _, text = await _run(linter, "lint", "-s", "WARNING", path)
        findings = [
            line
            for line in text.splitlines()
            if re.search(r"\((WARNING|ERROR|FATAL)\)", line)
            and not any(word in line for word in PKILINT_FALSE_ERRORS)
        ]
        assert not findings, (path.name, text)
