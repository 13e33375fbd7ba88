"""The operator's credential on disk, and its renewal."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from legation.cli import api_client
from legation.cli.connection import Connection
from legation.cli.credential import OperatorCredential, default_folder
from legation.clock import FixedClock
from legation.errors import InvalidInput, LegationError, NotFound, Unavailable
from legation.pki import CertificateRequest, certificates_to_pem, private_key_to_pem
from tests.support.pki import CA, DAY, LEAF, NOW, Made, make

OPERATOR = "spiffe://example.org/legation/operator/alice"


@pytest.fixture
def root() -> Made:
    """The trust domain's root."""
    return make(CA, subject="root", uris=("spiffe://example.org",))


@pytest.fixture
def folder(tmp_path: Path, root: Made) -> Path:
    """A good credential: valid from a day before NOW to a day after."""
    return write(tmp_path / "cred", make(LEAF, root, uris=(OPERATOR,)), root)


def write(folder: Path, made: Made, root: Made, *, key: Any = None) -> Path:
    folder.mkdir(mode=0o700)
    path = folder / "operator.pem"
    path.touch(mode=0o600)
    path.write_bytes(private_key_to_pem(key or made.key) + certificates_to_pem([made.certificate]))
    (folder / "bundle.pem").write_bytes(certificates_to_pem([root.certificate]))
    return folder


def test_a_credential_is_read(folder: Path) -> None:
    """Key, chain, identity and roots come from the two files."""
    credential = OperatorCredential.load(folder)
    assert str(credential.spiffe_id) == OPERATOR
    assert credential.remaining(NOW) == 0.5
    assert credential.bundle_pem.startswith("-----BEGIN CERTIFICATE-----")
    assert "PRIVATE" not in repr(credential)


@pytest.mark.parametrize("name", ["operator.pem", "bundle.pem"])
def test_a_missing_file_says_where_credentials_come_from(name: str, folder: Path) -> None:
    """Without one of the files the error names it and the commands that make one."""
    (folder / name).unlink()
    with pytest.raises(NotFound, match=name) as caught:
        OperatorCredential.load(folder)
    assert "legation operator create" in (caught.value.remedy or "")


def test_an_open_key_is_refused(folder: Path) -> None:
    """A key that others may read is not used."""
    (folder / "operator.pem").chmod(0o640)
    with pytest.raises(InvalidInput, match="others may read"):
        OperatorCredential.load(folder)


def test_what_does_not_belong_together_is_refused(tmp_path: Path, root: Made) -> None:
    """A foreign key, no key and no SPIFFE ID are each refused."""
    made = make(LEAF, root, uris=(OPERATOR,))
    other = write(tmp_path / "a", made, root, key=make(LEAF, root).key)
    with pytest.raises(InvalidInput, match="do not belong together"):
        OperatorCredential.load(other)
    path = write(tmp_path / "b", made, root) / "operator.pem"
    path.write_bytes(certificates_to_pem([made.certificate]))
    with pytest.raises(InvalidInput, match="no private key"):
        OperatorCredential.load(path.parent)
    nameless = write(tmp_path / "c", make(LEAF, root, uris=(), dns_names=("x.org",)), root)
    with pytest.raises(InvalidInput, match="no SPIFFE identity"):
        _ = OperatorCredential.load(nameless).spiffe_id


def test_our_own_folder_comes_before_the_servers(folder: Path, tmp_path: Path) -> None:
    """A credential of our own is preferred; with none anywhere, ours is where it is missed."""
    assert default_folder(folder) == folder
    assert default_folder(tmp_path / "none") in {
        tmp_path / "none",
        Path("/var/lib/legation/authority/operator"),
    }


class FakeClient:
    """Stands where the REST client stands, and certifies or refuses."""

    root: Made
    refusal: LegationError | None = None
    asked: list[tuple[str, ...]]

    def __init__(self, server: str, credential: OperatorCredential, *, timeout_s: float) -> None:
        self.credential = credential

    def __enter__(self) -> "FakeClient":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def post(self, *path: str, body: dict[str, Any]) -> dict[str, str]:
        type(self).asked.append(path)
        if self.refusal:
            raise self.refusal
        request = CertificateRequest.from_pem(body["csr"])
        made = make(
            LEAF, self.root, uris=(OPERATOR,), not_before=NOW, not_after=NOW + 9 * DAY,
            key=_Public(request.public_key), signer=self.root.key,
        )  # fmt: skip
        return {"chain_pem": certificates_to_pem([made.certificate]).decode()}


class _Public:
    """A key of which only the public half is here."""

    def __init__(self, public_key: Any) -> None:
        self._public_key = public_key

    def public_key(self) -> Any:
        return self._public_key


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, root: Made) -> type[FakeClient]:
    """Replace the REST client."""
    FakeClient.root, FakeClient.refusal, FakeClient.asked = root, None, []
    monkeypatch.setattr(api_client, "APIClient", FakeClient)
    return FakeClient


def _open(folder: Path, hours: float) -> OperatorCredential:
    connection = Connection(server="x:1", folder=folder, timeout_s=1)
    with connection.open(FixedClock(NOW + timedelta(hours=hours))) as client:
        return client.credential


def test_a_young_certificate_is_left_alone(folder: Path, fake: type[FakeClient]) -> None:
    """With more than a third of the lifetime left, nothing is renewed."""
    _open(folder, hours=7)
    assert fake.asked == []


def test_an_old_certificate_is_renewed(
    folder: Path, fake: type[FakeClient], capsys: pytest.CaptureFixture[str]
) -> None:
    """With less than a third left, a new key is certified, written and used."""
    before = (folder / "operator.pem").read_bytes()
    used = _open(folder, hours=9)
    assert fake.asked == [("operators", "self", "renew")]
    assert used.leaf.not_valid_after_utc == NOW + 9 * DAY
    stored = OperatorCredential.load(folder)
    assert stored.leaf == used.leaf
    assert (folder / "operator.pem").read_bytes() != before
    assert (folder / "operator.pem").stat().st_mode & 0o777 == 0o600
    assert "was renewed" in capsys.readouterr().err


def test_a_failed_renewal_harms_nothing(
    folder: Path, fake: type[FakeClient], capsys: pytest.CaptureFixture[str]
) -> None:
    """When the renewal fails, the old certificate goes on being used, and a note says so."""
    fake.refusal = Unavailable("the authority sleeps")
    before = (folder / "operator.pem").read_bytes()
    _open(folder, hours=9)
    assert (folder / "operator.pem").read_bytes() == before
    assert "was not renewed: the authority sleeps" in capsys.readouterr().err


def test_a_certificate_for_another_key_is_not_stored(
    folder: Path, fake: type[FakeClient], monkeypatch: pytest.MonkeyPatch, root: Made,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """An answer that certifies a key that is not ours leaves the credential as it was."""
    other = certificates_to_pem([make(LEAF, root, uris=(OPERATOR,)).certificate]).decode()
    monkeypatch.setattr(FakeClient, "post", lambda *_, **__: {"chain_pem": other})
    before = (folder / "operator.pem").read_bytes()
    _open(folder, hours=9)
    assert (folder / "operator.pem").read_bytes() == before
    assert "another key than ours" in capsys.readouterr().err
