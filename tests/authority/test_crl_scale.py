"""Many revoked certificates: only one shard is made anew, and every verifier agrees on it."""

import gc
import json
from pathlib import Path

import pytest
from pkilint.bin import lint_crl

from bench.crl import leaf_of, stage
from legation.authority.events import CRLPublished
from legation.pki import RevocationList

REVOKED, SHARDS = 20_000, 128


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_one_revocation_among_many(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A list of a 128th is made and fetched once; OpenSSL obeys it and pkilint has no finding."""
    async with stage(tmp_path, revoked=REVOKED, shards=SHARDS) as on:
        await on.rebuild()
        listed, spared = on.spare[-1], on.spare[0]
        await on.revoke()
        rebuilt = await on.rebuild()
        events = [event for event in on.heard if isinstance(event, CRLPublished)]
        _, status, etag, der = await on.fetch()
        _, again, _, nothing = await on.fetch(etag)
        url = f"http://status.example/crl/{on.place[0]}/0.crl"
        verdicts = [
            on.verdict(tmp_path, leaf_of(on.issuer, serial, crl_url=url), der)
            for serial in (listed, spared)
        ]
    first, second = (event.entries for event in events)
    assert first == -(-REVOKED // SHARDS)
    assert second == first + 1
    assert (status, again, nothing) == (200, 304, b"")
    crl = RevocationList.from_der(der)
    assert (crl.number, crl.shard_url, len(crl.entries)) == (events[1].number, url, second)
    assert "certificate revoked" in verdicts[0]
    assert verdicts[1] == "OK"
    assert rebuilt.seconds < 2
    path = tmp_path / "list.crl"
    path.write_bytes(der)
    lint_crl.main(["lint", "-t", "CRL", "-p", "PKIX", str(path), "-s", "WARNING", "-f", "JSON"])
    gc.collect()  # the linter leaves the file open, which would be told in a later test
    assert json.loads(capsys.readouterr().out)["results"] == []
