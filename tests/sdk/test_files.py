"""The source of PEM files: what is taken over, and what is not."""

import os
import threading
from datetime import UTC, datetime

import pytest

from legation.causes import Cause
from legation.clock import FixedClock
from legation.errors import InvalidInput, LimitExceeded, NotFound, Unavailable, VerificationError
from legation.pki import SpiffeID, certificates_to_pem, private_key_to_pem
from legation.pki.pem import encode
from legation.policy import Request
from legation.sdk import FileSource
from legation.sdk.model import Aspect
from tests.support.sdk_messages import Domain

NOW = datetime.now(UTC).replace(microsecond=0)
DOMAIN = Domain(now=NOW)
PARTNER = Domain("partner.test", now=NOW)
PEER = SpiffeID.parse("spiffe://example.org/peer")
ISSUER = DOMAIN.issuer.certificate


class Folder:
    """The files, written as a good tool does: beside, and renamed."""

    def __init__(self, path):
        self.path = path

    def write(self, name, data):
        draft = self.path / f".{name}"
        draft.write_bytes(data)
        draft.replace(self.path / name)

    def put(self, identity):
        self.write("key.pem", private_key_to_pem(identity.private_key))
        self.write("chain.pem", certificates_to_pem(identity.chain))

    def source(self, **options):
        return FileSource(
            certificate=self.path / "chain.pem",
            private_key=self.path / "key.pem",
            bundle=self.path / "bundle.pem",
            **({"poll_s": 3600} | options),
        )


@pytest.fixture
def folder(tmp_path):
    folder = Folder(tmp_path)
    folder.put(DOMAIN.svid("/api"))
    folder.write("bundle.pem", DOMAIN.bundle.to_pem())
    return folder


def test_files_are_a_source(folder):
    """Chain, key and bundle make the view; without lists nobody is refused; nothing is allowed."""
    with folder.source() as source:
        source.wait_ready(0)
        view = source.view()
        assert str(view.svid.spiffe_id) == "spiffe://example.org/api"
        assert view.bundles == {DOMAIN.trust_domain: DOMAIN.bundle}
        assert source.refusal(serial=1, spiffe_id=PEER) is None
        call = Request(source=str(PEER), target="spiffe://a/b", method=None, path=None, port=1)
        assert not source.decide(call).allowed
    with pytest.raises(Unavailable, match="closed"):
        source.view()


def test_a_renewed_pair_is_taken_over(folder):
    """A new chain with its key replaces the view, and listeners hear of it."""
    with folder.source() as source:
        heard = []
        source.subscribe(heard.append)
        renewed = DOMAIN.svid("/api")
        folder.put(renewed)
        source.look()
        assert source.view().svid.serial == renewed.serial
        assert heard == [{Aspect.IDENTITY}]


def test_changes_are_noticed_by_themselves(folder):
    """The source's own thread looks again and again."""
    with folder.source(poll_s=0.01) as source:
        noticed = threading.Event()
        source.subscribe(lambda _: noticed.set())
        folder.put(DOMAIN.svid("/api"))
        assert noticed.wait(10)


def test_a_half_written_pair_waits(folder, caplog):
    """While key and chain do not match the old view stays and the reason is told once."""
    with folder.source() as source:
        view, renewed = source.view(), DOMAIN.svid("/api")
        folder.write("chain.pem", certificates_to_pem(renewed.chain))
        source.look()
        source.look()
        assert source.view() is view
        assert "not that of its certificate" in str(source.problem)
        assert caplog.text.count("not that of its certificate") == 1
        folder.write("key.pem", private_key_to_pem(renewed.private_key))
        source.look()
        assert source.view().svid.serial == renewed.serial
        assert source.problem is None


@pytest.mark.parametrize(
    ("name", "data", "kind", "words"),
    [
        ("chain.pem", b"nonsense", InvalidInput, "PEM"),
        ("chain.pem", b"", InvalidInput, "PEM"),
        ("key.pem", b"nonsense", InvalidInput, "PEM"),
        ("bundle.pem", PARTNER.bundle.to_pem(), VerificationError, "no trusted authority"),
        ("chain.pem", b"x" * (1 << 20) + b"x", LimitExceeded, "more than"),
    ],
)
def test_broken_files_are_not_taken_over(folder, name, data, kind, words):
    """Whatever is broken, the view stays as it was; made anew, the source raises."""
    with folder.source() as source:
        view = source.view()
        folder.write(name, data)
        source.look()
        assert source.view() is view
        assert isinstance(source.problem, kind)
        assert words in str(source.problem)
    with pytest.raises(kind):
        folder.source()


def test_missing_files(folder):
    """A file that is missing from the beginning is named; one that goes later keeps the view."""
    with folder.source() as source:
        (folder.path / "key.pem").unlink()
        source.look()
        assert isinstance(source.problem, NotFound)
        assert source.view().svid
    with pytest.raises(NotFound, match=r"key\.pem"):
        folder.source()


def test_a_pipe_does_not_block(folder):
    """A named pipe where a file should be is refused, and does not stop the source."""
    (folder.path / "key.pem").unlink()
    os.mkfifo(folder.path / "key.pem")
    with pytest.raises(InvalidInput, match="not a file"):
        folder.source()


def test_an_expired_pair_is_not_taken_over(folder):
    """A chain that is over does not replace one that is good."""
    with folder.source() as source:
        folder.put(DOMAIN.svid("/api", hours=-1 / 120))
        source.look()
        assert isinstance(source.problem, VerificationError)
        assert source.view().svid


def test_the_view_expires(folder):
    """When nobody renews the files, the view ends with the certificate, and it is told once."""
    clock = FixedClock(NOW)
    with folder.source(clock=clock) as source:
        heard = []
        source.subscribe(heard.append)
        clock.advance(3600)
        source.look()
        source.look()
        assert heard == [{Aspect.IDENTITY}]
        with pytest.raises(VerificationError) as caught:
            source.view()
        assert caught.value.failures[0].cause is Cause.CERTIFICATE_EXPIRED


@pytest.mark.parametrize("form", [bytes, lambda der: encode("X509 CRL", der)])
def test_lists_are_checked(folder, form):
    """Lists in PEM or DER refuse, are followed, and a broken one changes nothing."""
    folder.write("crl", form(DOMAIN.crl(7)))
    with folder.source(crls=[folder.path / "crl"]) as source:
        asked = {"spiffe_id": PEER, "issuer": ISSUER}
        assert source.refusal(serial=7, **asked) is Cause.CERTIFICATE_REVOKED
        assert source.refusal(serial=8, **asked) is None
        folder.write("crl", form(DOMAIN.crl(8, number=2)))
        source.look()
        assert source.refusal(serial=8, **asked) is Cause.CERTIFICATE_REVOKED
        folder.write("crl", b"broken")
        source.look()
        assert isinstance(source.problem, InvalidInput)
        assert source.refusal(serial=8, **asked) is Cause.CERTIFICATE_REVOKED


def test_other_trust_domains(folder):
    """Bundles of federated domains stand beside the own one."""
    folder.write("partner.pem", PARTNER.bundle.to_pem())
    with folder.source(federated={"partner.test": folder.path / "partner.pem"}) as source:
        assert source.view().bundles == {
            DOMAIN.trust_domain: DOMAIN.bundle,
            PARTNER.trust_domain: PARTNER.bundle,
        }
