"""How an authority begins, starts and refuses to start."""

import asyncio
import dataclasses
import stat
import subprocess
from pathlib import Path

import pytest

from legation.authority.initialisation import FirstOperator
from legation.authority.keystore import RawKey
from legation.authority.model import Role
from legation.authority.settings import AuthoritySettings, certificate_path, crl_path
from legation.authority.wiring import build, initialise
from legation.clock import SystemClock
from legation.config import ServerConfig
from legation.errors import Conflict, InvalidInput, NotFound
from legation.pki import (
    KeyAlgorithm,
    RevocationList,
    TrustDomain,
    build_request,
    certificate_from_der,
    certificates_to_pem,
    generate_key,
)
from tests.support.authority import ADMIN, KEK, begin, running, settings_for


@pytest.mark.parametrize(
    "algorithm", [KeyAlgorithm.P384, KeyAlgorithm.RSA_3072, KeyAlgorithm.ML_DSA_87]
)
async def test_a_new_authority_has_all_it_needs(tmp_path: Path, algorithm: KeyAlgorithm) -> None:
    """Root, issuer, lists, bundle and administrator, whatever kind the CA keys have."""
    settings = settings_for(
        tmp_path,
        root_algorithm=algorithm,
        issuer_algorithm=algorithm,
        status_url="http://status.example",
    )
    made = await begin(settings)
    assert made.operator.spiffe_id == ADMIN.spiffe_id
    root = certificate_from_der(made.root)
    assert made.bundle.x509_authorities == (root,)
    # Without listeners: the OpenSSL below Python may not know the algorithm.
    async with build(settings, clock=SystemClock(), kek=KEK) as authority:
        status = authority.services.status
        assert status.ready()[0]
        assert status.bundle_document() == made.bundle.to_document()
        roles = {row["role"]: row["key_id"] for row in status.status()["issuers"]}
        assert set(status.authority_certificates()) == set(roles.values())
        for role, key_id in roles.items():
            crl = RevocationList.from_der(status.crl(key_id, 0))
            assert crl.entries == {}, role
        actor = authority.services.operators.authenticate(
            ADMIN.spiffe_id,
            certificate_from_der(made.operator_chain[0]).serial_number,
            issuer_name="",
        )
        assert actor.role is Role.ADMIN
        actions = [row.action for row in await authority.services.audit.read(after=0, limit=10)]
        assert actions[:2] == ["authority.initialise", "certificate.issue"]
    issuing = certificate_from_der(made.operator_chain[1])
    text = subprocess.run(
        ["openssl", "x509", "-noout", "-text"],
        input=certificates_to_pem([issuing]), capture_output=True, check=True,
    ).stdout.decode()  # fmt: skip
    assert f"URI:http://status.example{crl_path(roles['root'], 0)}" in text
    assert f"URI:http://status.example{certificate_path(roles['root'])}" in text
    assert "CA:TRUE, pathlen:0" in text


async def test_its_files_are_for_its_owner_only(tmp_path: Path) -> None:
    """Directory 0700, files 0600, and no private key in the clear anywhere."""
    settings = settings_for(tmp_path)
    await begin(settings)
    assert stat.S_IMODE(settings.data_dir.stat().st_mode) == 0o700
    for path in settings.data_dir.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert b"PRIVATE KEY" not in path.read_bytes()


async def test_an_authority_is_not_overwritten(tmp_path: Path) -> None:
    """A second beginning in the same directory is refused, and the first still works."""
    settings = settings_for(tmp_path)
    made = await begin(settings)
    with pytest.raises(Conflict, match=r"holds the authority of example\.org already"):
        await begin(settings)
    async with running(settings, new=False) as world:
        assert made.root in world.services.status.authority_certificates().values()
        with pytest.raises(Conflict, match="is running on"):
            await begin(settings)


async def test_without_a_beginning_there_is_no_authority(tmp_path: Path) -> None:
    """Starting in an empty or absent directory names the command that helps."""
    settings = settings_for(tmp_path)
    with pytest.raises(InvalidInput, match="legation server init"):
        async with running(settings, new=False):
            pass
    settings.data_dir.mkdir(mode=0o700)
    with pytest.raises(NotFound, match="legation server init"):
        async with running(settings, new=False):
            pass


async def test_a_first_operator_that_is_not_acceptable_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    """After the refusal the directory can be initialised."""
    settings = settings_for(tmp_path)
    for name, csr in (("../admin", build_request(generate_key())), ("admin", b"nonsense")):
        with pytest.raises(InvalidInput):
            await initialise(
                settings,
                clock=SystemClock(),
                kek=KEK,
                operator=FirstOperator(name=name, csr=csr),
            )
    await begin(settings)


async def test_the_wrong_key_opens_nothing(tmp_path: Path) -> None:
    """One clear error, and the directory is free again afterwards."""
    settings = settings_for(tmp_path)
    await begin(settings)
    with pytest.raises(InvalidInput, match="does not open the root key of this authority"):
        async with build(settings, clock=SystemClock(), kek=RawKey(bytes(32))):
            pass
    async with running(settings, new=False) as world:
        assert world.services.status.ready()[0]


async def test_another_trust_domain_is_refused(tmp_path: Path) -> None:
    """Settings of another authority do not start this one."""
    settings = settings_for(tmp_path)
    await begin(settings)
    other = dataclasses.replace(settings, trust_domain=TrustDomain("other.example"))
    with pytest.raises(InvalidInput, match=r"is the authority of example\.org, not of other"):
        async with running(other, new=False):
            pass


async def test_a_directory_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    """With the command that helps."""
    settings = settings_for(tmp_path)
    settings.data_dir.mkdir(mode=0o755)
    settings.data_dir.chmod(0o755)
    with pytest.raises(InvalidInput, match="others than the owner can enter") as caught:
        await begin(settings)
    assert "chmod 700" in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [{"crl_shards": 1}, {"crl_shards": 8}, {"status_url": "http://elsewhere.example"}],
    ids=str,
)
async def test_lists_that_certificates_name_cannot_be_renamed(
    tmp_path: Path, change: dict[str, object]
) -> None:
    """With other shards or URLs some certificates would be covered by no list: refused."""
    settings = settings_for(tmp_path, crl_shards=4, status_url="http://status.example")
    await begin(settings)
    if change == {"crl_shards": 8}:
        async with running(dataclasses.replace(settings, crl_shards=8), new=False):
            return  # more lists than before cover all that was issued
    with pytest.raises(InvalidInput, match="name the revocation list"):
        async with running(dataclasses.replace(settings, **change), new=False):  # type: ignore[arg-type]
            pass


async def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    """Entries, revocations, agents, operators and the feed's revision; and the feed goes on."""
    settings = settings_for(tmp_path)
    async with running(settings) as world:
        agent = await world.enrol()
        entry = await world.entry(agent)
        outcome = await world.services.revocations.revoke_identity(
            agent.spiffe_id, reason="superseded", ban=False, actor=ADMIN
        )
        async with asyncio.timeout(5):
            while world.services.status.status()["revision"] <= outcome.revision:
                await asyncio.sleep(0.01)
        before = world.services.status.status()
    async with running(settings, new=False) as world:
        after = world.services.status.status()
        assert {k: after[k] for k in ("revision", "feed_id", "issuers")} == {
            k: before[k] for k in ("revision", "feed_id", "issuers")
        }
        assert list(world.services.entries.list()) == [entry]
        listed = await world.services.revocations.revocations(after=None, limit=9)
        assert [r.serial for r in listed] == [agent.serial]
        assert [(a.spiffe_id, a.connected) for a in world.services.propagation.agents()] == [
            (agent.spiffe_id, False)
        ]
        changed = await world.services.entries.update(entry.id, {"owner": "x"}, actor=ADMIN)
        assert changed.owner == "x"
        assert world.services.status.status()["revision"] == after["revision"] + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"workload_lifetime_s": 0}, "workload_lifetime_s must be positive"),
        ({"crl_shards": 0}, "crl_shards must be between"),
        ({"keep_expired_s": 86_399}, "keep_expired_s must be at least 90000"),
        ({"keep_audit_s": 86_400}, "keep_audit_s must be at least 90000"),
        ({"crl_shards": 2}, "need a status_url"),
        ({"status_url": "http://x/"}, "must not end with a slash"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    """With the name of the setting."""
    with pytest.raises(InvalidInput, match=message):
        settings_for(tmp_path, **change)


def test_settings_are_taken_from_the_configuration(tmp_path: Path) -> None:
    """Names are told from addresses, durations become seconds."""
    config = ServerConfig.model_validate(
        {
            "trust_domain": "example.org",
            "data_dir": str(tmp_path),
            "names": ["authority.example", "192.0.2.1", "::1"],
            "certificates": {"default_lifetime": "30m", "max_lifetime": "2h"},
            "crl": {"validity": "2h", "refresh": "10m", "shards": 2},
            "retention": {"expired": "7d"},
        }
    )
    settings = AuthoritySettings.from_config(config)
    assert settings.dns_names == ("authority.example",)
    assert [str(address) for address in settings.ip_addresses] == ["192.0.2.1", "::1"]
    assert (settings.workload_lifetime_s, settings.max_lifetime_s) == (1800, 7200)
    assert (settings.crl_validity_s, settings.refresh_s, settings.crl_shards) == (7200, 600, 2)
    assert (settings.keep_expired_s, settings.keep_audit_s) == (7 * 86_400, 400 * 86_400)
    assert settings.status_url == config.status_base_url()
    assert AuthoritySettings.from_config(config, status_url="http://x").status_url == "http://x"
