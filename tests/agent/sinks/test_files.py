"""The files of a sink: what is in them, who may read them, and how they are replaced."""

import dataclasses
import os
import shutil
import ssl
import stat
import subprocess
import threading

import pytest
from cryptography import x509

from legation.agent.sinks.contents import render
from legation.agent.sinks.generations import Access, Generations, access_of
from legation.agent.sinks.model import Generation, Material
from legation.config.sinks import SinkFiles
from legation.errors import InvalidInput, Unavailable
from legation.pki import RevocationList, certificates_from_pem, from_pkcs12
from legation.pki.pem import decode

ALL = {
    "chain": "chain.pem",
    "key": "key.pem",
    "combined": "both.pem",
    "bundle": "bundle.pem",
    "crl": "crl.pem",
    "revoked": "revoked.map",
    "pkcs12": "identity.p12",
    "pkcs12_password_file": "/run/password",
}


@pytest.fixture
def material(issued):
    lists = tuple(RevocationList.from_der(crl.der) for crl in issued.state.crls.values())
    return Material(identity=issued.current[0], bundle=issued.bundle, lists=lists, revision=1)


@pytest.fixture
def generations(tmp_path):
    generations = Generations(tmp_path / "web", Access())
    generations.prepare()
    return generations


def test_every_kind_of_file_says_the_same(material):
    """PEM, combined and PKCS #12 hold the same chain and key; the list file holds every list."""
    contents = render(SinkFiles(**ALL), material, password=b"secret")
    chain = certificates_from_pem(contents["chain.pem"])
    assert chain[0].serial_number == material.identity.serial
    assert contents["both.pem"] == contents["chain.pem"] + contents["key.pem"]
    store = from_pkcs12(contents["identity.p12"], password=b"secret")
    assert (store.certificate, *store.chain) == chain
    lists = decode(contents["crl.pem"], labels=("X509 CRL",), what="list", limit=1 << 20, most=10)
    assert lists == [known.der for known in material.lists]
    assert certificates_from_pem(contents["bundle.pem"]) == material.bundle.x509_authorities


def test_revoked_serial_numbers_are_a_map(issued):
    """Each serial number of each list stands there as OpenSSL prints it, in whole octets."""
    for serial in (1, 0xABC, 2**158 + 5):
        issued.revoke(serial)
    lists = tuple(RevocationList.from_der(crl.der) for crl in issued.state.crls.values())
    material = Material(identity=issued.current[0], bundle=issued.bundle, lists=lists, revision=1)
    files = SinkFiles(combined="both.pem", crl="crl.pem", revoked="revoked.map")
    text = render(files, material, password=None)["revoked.map"]
    assert text == b"01 1;\n0ABC 1;\n40" + b"00" * 18 + b"05 1;\n"


def test_only_named_files_are_rendered(material):
    """What has no name is not written, above all no key beside a combined file."""
    contents = render(SinkFiles(combined="both.pem"), material, password=None)
    assert list(contents) == ["both.pem"]


@pytest.mark.skipif(not shutil.which("keytool"), reason="no Java")
def test_java_reads_the_key_store(material, tmp_path):
    """Java's own tool finds the private key entry and a chain of two."""
    contents = render(SinkFiles(**ALL), material, password=b"secret")
    store, password = tmp_path / "identity.p12", tmp_path / "password"
    store.write_bytes(contents["identity.p12"])
    password.write_text("secret")
    shown = subprocess.run(
        ["keytool", "-list", "-v", "-keystore", store, "-storepass:file", password],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "PrivateKeyEntry" in shown
    assert "Certificate chain length: 2" in shown


def test_a_mark_is_the_root_and_changes_nothing_else(material):
    """Materials that would look alike from outside are told apart by the root at the end."""
    plain = Generation.of(material, 1)
    marked = material.following(plain)
    assert marked.served == (*material.identity.chain, material.root)
    assert marked.digest == material.digest
    assert marked.following(Generation.of(marked, 2)).served == material.served


def test_another_certificate_needs_no_mark(material, issued):
    """A new leaf is told apart by itself."""
    plain = Generation.of(material, 1)
    other = dataclasses.replace(material, identity=issued.certify("/web"))
    assert not other.following(plain).marked


def test_a_generation_is_put_in_force_by_a_link(generations, material, tmp_path):
    """Files appear under `current` with mode 0600, in directories of mode 0700."""
    first = Generation.of(material, generations.next_number())
    generations.write(first, {"key.pem": b"1"})
    assert generations.current() is None
    generations.switch(first.number)
    assert generations.current() == first
    key = tmp_path / "web" / "current" / "key.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "web" / ".1").stat().st_mode) == 0o700
    assert generations.next_number() == 2


def test_a_reader_never_sees_half_a_change(generations, material, tmp_path):
    """Through a hundred switches, a reader of one directory sees one generation's files."""
    for number in (1, 2):
        generations.write(Generation.of(material, number), {"a": b"%d" % number * 99, "b": b"x"})
    generations.switch(1)
    torn, done = [], threading.Event()

    def read():
        while not done.is_set():
            fd = os.open(tmp_path / "web" / "current", os.O_RDONLY | os.O_DIRECTORY)
            with os.fdopen(os.open("a", os.O_RDONLY, dir_fd=fd), "rb") as file:
                content = file.read()
            os.close(fd)
            if content not in {b"1" * 99, b"2" * 99}:
                torn.append(content)

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(100):
        generations.switch(1 + turn % 2)
    done.set()
    reader.join()
    assert torn == []


def test_older_generations_are_removed(generations, material, tmp_path):
    """Only what is named is kept."""
    for number in range(1, 5):
        generations.write(Generation.of(material, number), {"key.pem": b"k"})
    generations.prune({3, 4})
    assert sorted(path.name for path in (tmp_path / "web").iterdir()) == [".3", ".4"]


def test_what_a_crash_left_is_cleared_away(tmp_path, material):
    """A half-written generation never gets a number, and is gone after the next start."""
    (tmp_path / "web" / ".7.draft").mkdir(parents=True)
    generations = Generations(tmp_path / "web", Access())
    generations.prepare()
    assert not (tmp_path / "web" / ".7.draft").exists()
    assert generations.next_number() == 1


@pytest.mark.parametrize("record", [b"{}", b"not json", b'{"number": 9}', b""])
def test_a_damaged_record_is_no_generation(generations, material, tmp_path, record):
    """A record that cannot be read, or is another's, is no way back."""
    generations.write(Generation.of(material, 1), {"key.pem": b"k"})
    generations.switch(1)
    (tmp_path / "web" / ".1" / ".generation.json").write_bytes(record)
    assert generations.current() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
def test_files_belong_to_whom_the_sink_names(tmp_path, material):
    """Owner, group and mode are the files'; the directories stay the agent's."""
    generations = Generations(tmp_path / "web", access_of("nobody", "daemon", 0o640))
    generations.prepare()
    generations.write(Generation.of(material, 1), {"key.pem": b"k"})
    key, above = (tmp_path / "web/.1/key.pem").stat(), (tmp_path / "web/.1").stat()
    nobody, daemon = access_of("nobody", "daemon", 0o640).uid, access_of(None, "daemon", 0).gid
    assert (key.st_uid, key.st_gid, stat.S_IMODE(key.st_mode)) == (nobody, daemon, 0o640)
    assert (above.st_uid, above.st_gid, stat.S_IMODE(above.st_mode)) == (0, daemon, 0o710)


def test_an_unknown_owner_is_refused():
    """A user or group that does not exist is an error that names it."""
    with pytest.raises(InvalidInput, match="nobody-knows"):
        access_of("nobody-knows", None, 0o600)


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a directory of another user")
def test_a_foreign_directory_is_refused(tmp_path):
    """A directory that belongs to another user could lead our writes elsewhere."""
    (tmp_path / "web").mkdir()
    os.chown(tmp_path / "web", access_of("nobody", None, 0).uid, -1)
    with pytest.raises(InvalidInput, match="belongs to user"):
        Generations(tmp_path / "web", Access()).prepare()


def test_a_disk_that_refuses_is_said(tmp_path):
    """A path that cannot be a directory is an error with the reason, not a traceback."""
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="Not a directory"):
        Generations(tmp_path / "file" / "web", Access()).prepare()


def test_the_files_are_what_openssl_loads(generations, material, tmp_path):
    """Python's OpenSSL takes chain, key, bundle and lists as written."""
    contents = render(SinkFiles(**ALL), material, password=b"secret")
    generations.write(Generation.of(material, 1), contents)
    generations.switch(1)
    current = tmp_path / "web" / "current"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(current / "both.pem")
    context.load_verify_locations(current / "bundle.pem")
    context.load_verify_locations(current / "crl.pem")
    assert context.cert_store_stats()["crl"] == len(material.lists)
    assert x509.load_pem_x509_certificates((current / "bundle.pem").read_bytes())
