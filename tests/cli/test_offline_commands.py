"""Commands that need no authority: certificates and policies from files."""

import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from legation.pki import certificates_to_pem
from tests.cli.conftest import CLI
from tests.cli.test_values import POLICY
from tests.support.pki import CA, LEAF, NOW, Made, make

ROOT = "spiffe://example.org"
AT = NOW.isoformat()


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A root, a leaf of it and a leaf of somebody else, as PEM files."""
    root = make(CA, subject="root", uris=(ROOT,))
    leaf = make(LEAF, root, dns_names=("api.example.org",))
    stranger = make(LEAF, make(CA, subject="other", uris=(ROOT,)))
    return {
        name: _write(tmp_path / f"{name}.pem", made)
        for name, made in (("root", root), ("leaf", leaf), ("stranger", stranger))
    }


def _write(path: Path, made: Made) -> Path:
    path.write_bytes(certificates_to_pem([made.certificate]))
    return path


def test_inspect_says_what_a_certificate_says(cli: CLI, files: dict[str, Path]) -> None:
    """JSON has every field; the table has those with a value."""
    ended = cli("certificate", "inspect", files["leaf"], "-o", "json")
    (item,) = ended.data["items"]
    assert item["spiffe_id"] == f"{ROOT}/api"
    assert item["dns_names"] == ["api.example.org"]
    assert item["key_algorithm"] == "ec-p256"
    assert item["key_usage"] == ["digital_signature"]
    assert item["extended_key_usage"] == ["serverAuth", "clientAuth"]
    assert item["ca"] is False
    shown = cli("certificate", "inspect", files["leaf"]).out
    assert f"{ROOT}/api" in shown
    assert "crl urls" not in shown


def test_inspect_agrees_with_openssl(cli: CLI, files: dict[str, Path]) -> None:
    """Serial number and fingerprint are those that OpenSSL prints."""
    (item,) = cli("certificate", "inspect", files["leaf"], "-o", "json").data["items"]
    printed = subprocess.run(
        ["openssl", "x509", "-in", files["leaf"], "-noout", "-serial", "-fingerprint", "-sha256"],
        capture_output=True, text=True, check=True,
    ).stdout.lower().replace(":", "")  # fmt: skip
    assert f"serial={item['serial']}" in printed
    assert f"fingerprint={item['fingerprint_sha256']}" in printed


def test_inspect_reads_der_and_pem_among_text(
    cli: CLI, files: dict[str, Path], tmp_path: Path
) -> None:
    """DER works, and so does what `openssl s_client -showcerts` prints around PEM."""
    der = tmp_path / "leaf.der"
    subprocess.run(
        ["openssl", "x509", "-in", files["leaf"], "-outform", "DER", "-out", der], check=True
    )
    talk = tmp_path / "talk.txt"
    texts = [f"depth=0 CN = x\n{files[name].read_text()}\nend\n" for name in ("leaf", "root")]
    talk.write_text("".join(texts))
    items = cli("certificate", "inspect", der, talk, "-o", "json").data["items"]
    assert [item["ca"] for item in items] == [False, False, True]


@pytest.mark.parametrize("content", [b"", b"hello", b"-----BEGIN CERTIFICATE-----\nAA"])
def test_what_is_no_certificate_is_refused(content: bytes, cli: CLI, tmp_path: Path) -> None:
    """Anything else ends with 2 and names the file."""
    path = tmp_path / "bad.pem"
    path.write_bytes(content)
    ended = cli("certificate", "inspect", path)
    assert ended.status == 2
    assert "bad.pem" in ended.err
    assert "defect" not in ended.err


def test_verify_accepts_a_good_chain(cli: CLI, files: dict[str, Path]) -> None:
    """A chain to the bundle's root, for the expected identity, verifies."""
    ended = cli(
        "certificate", "verify", files["leaf"], "--bundle", files["root"], "--at", AT,
        "--trust-domain", "example.org", "--spiffe-id", f"{ROOT}/api", "-o", "json",
    )  # fmt: skip
    assert ended.status == 0, ended.err
    assert ended.data["valid"] is True
    assert ended.data["spiffe_id"] == f"{ROOT}/api"


@pytest.mark.parametrize(
    ("name", "flags", "cause"),
    [
        ("stranger", ("--trust-domain", "example.org"), "unknown_authority"),
        ("leaf", ("--trust-domain", "other.org"), "wrong_trust_domain"),
        ("leaf", ("--trust-domain", "example.org", "--spiffe-id", f"{ROOT}/web"), "wrong_identity"),
        ("leaf", ("--dns-name", "web.example.org"), "wrong_identity"),
    ],
)
def test_verify_names_the_cause(
    name: str, flags: tuple[str, ...], cause: str, cli: CLI, files: dict[str, Path]
) -> None:
    """A chain that fails ends with 1 and the word for why."""
    bundle = ("--bundle", files["root"], "--at", AT)
    ended = cli("certificate", "verify", files[name], *bundle, *flags)
    assert ended.status == 1
    assert cause in ended.err
    assert "remedy:" in ended.err


def test_verify_lists_every_failure(cli: CLI, files: dict[str, Path]) -> None:
    """Two things wrong are two error lines."""
    later = (NOW + timedelta(days=900)).isoformat()
    ended = cli(
        "certificate", "verify", files["leaf"], "--bundle", files["root"], "--at", later,
        "--trust-domain", "example.org", "--spiffe-id", f"{ROOT}/web",
    )  # fmt: skip
    assert {"wrong_identity", "certificate_expired"} <= set(ended.err.replace(":", " ").split())


def test_verify_heeds_a_crl_that_openssl_made(cli: CLI, tmp_path: Path) -> None:
    """A certificate on a CRL is refused, one that is not on it passes."""
    _openssl_ca(tmp_path)
    bundle = ("--bundle", tmp_path / "ca.pem", "--dns-name", "a.example.org")
    crl = ("--crl", tmp_path / "ca.crl")
    assert cli("certificate", "verify", tmp_path / "good.pem", *bundle, *crl).status == 0
    assert cli("certificate", "verify", tmp_path / "bad.pem", *bundle).status == 0
    ended = cli("certificate", "verify", tmp_path / "bad.pem", *bundle, *crl)
    assert ended.status == 1
    assert "certificate_revoked" in ended.err


def _openssl_ca(folder: Path) -> None:
    """Make a CA, two leaves and a CRL with one of them, by OpenSSL alone."""
    (folder / "index").touch()
    (folder / "ca.cnf").write_text(
        f"[ca]\ndefault_ca = d\n[d]\ndatabase = {folder}/index\nserial = {folder}/serial\n"
        f"new_certs_dir = {folder}\ndefault_md = sha256\npolicy = p\ncrlnumber = {folder}/number\n"
        "default_crl_days = 1\ndefault_days = 1\nx509_extensions = leaf\ncrl_extensions = crl\n"
        "[p]\ncommonName = optional\n[crl]\nauthorityKeyIdentifier = keyid\n"
        "[leaf]\nbasicConstraints = critical,CA:false\nkeyUsage = critical,digitalSignature\n"
        "extendedKeyUsage = serverAuth\nsubjectAltName = DNS:a.example.org\n"
        "subjectKeyIdentifier = hash\nauthorityKeyIdentifier = keyid\n"
    )
    (folder / "serial").write_text("1000\n")
    (folder / "number").write_text("01\n")
    script = """
        new="openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
        $new -x509 -keyout ca.key -out ca.pem -days 2 -subj /CN=ca \
            -addext keyUsage=critical,keyCertSign,cRLSign
        for name in good bad; do
            $new -keyout $name.key -out $name.csr -subj /CN=$name
            openssl ca -batch -notext -config ca.cnf -keyfile ca.key -cert ca.pem \
                -in $name.csr -out $name.pem
        done
        openssl ca -config ca.cnf -keyfile ca.key -cert ca.pem -revoke bad.pem
        openssl ca -config ca.cnf -keyfile ca.key -cert ca.pem -gencrl -out ca.crl
    """
    subprocess.run(["bash", "-ec", script], cwd=folder, capture_output=True, check=True)


def test_lint_finds_what_is_wrong(cli: CLI, files: dict[str, Path], tmp_path: Path) -> None:
    """A certificate that breaks a rule ends with 1 and its citation; a good one with 0."""
    ended = cli("certificate", "lint", files["leaf"])
    assert ended.status == 0, ended.out
    two_names = make(LEAF, uris=(f"{ROOT}/a", f"{ROOT}/b"))
    ended = cli("certificate", "lint", _write(tmp_path / "two.pem", two_names), "-o", "json")
    assert ended.status == 1
    assert any("X509-SVID" in row["citation"] for row in ended.data["items"])


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    """One policy that lets the web service read, and a shadow one that would not."""
    path = tmp_path / "policy.yaml"
    shadow = POLICY.replace("readers", "strict").replace("ALLOW", "DENY\n  mode: shadow")
    path.write_text(f"{POLICY}      to: [{{methods: [GET], paths: [/orders/*]}}]\n---\n{shadow}")
    return path


def test_explain_names_the_policy_that_allows(cli: CLI, policy_file: Path) -> None:
    """The verdict, the policy and what a shadow policy would change are all said."""
    ended = cli(
        "policy", "explain", "-f", policy_file, f"{ROOT}/web", f"{ROOT}/api", "--path", "/orders/7"
    )
    assert ended.status == 0
    assert ended.out.startswith("allowed by policy readers, rule 0\n")
    assert "in shadow, strict would deny it" in ended.out


@pytest.mark.parametrize(
    ("source", "flags", "said"),
    [
        ("/batch", ("--path", "/orders/7"), "because no policy allows it"),
        ("/web", ("--path", "/orders/../admin"), "because no policy allows it"),
        ("/web", ("--path", "/orders/7", "--method", "DELETE"), "because no policy allows it"),
        ("/web", (), "because no policy allows it"),
        ("/web", ("--path", "/orders/%00"), "no proxy accepts such a path"),
    ],
)
def test_explain_denies_with_status_1(
    source: str, flags: tuple[str, ...], said: str, cli: CLI, policy_file: Path
) -> None:
    """A denied call ends with 1; the path is judged as the proxy normalises it."""
    ended = cli("policy", "explain", "-f", policy_file, ROOT + source, f"{ROOT}/api", *flags)
    assert ended.status == 1
    assert said in ended.out
    data = cli(
        "policy", "explain", "-f", policy_file, ROOT + source, f"{ROOT}/api", *flags, "-o", "json"
    ).data
    assert data["allowed"] is False


def test_validate_counts_or_refuses(cli: CLI, policy_file: Path) -> None:
    """Valid files are counted; an invalid one ends with 2."""
    assert "2 policies, all valid" in cli("policy", "validate", policy_file).err
    policy_file.write_text(POLICY.replace("ALLOW", "ALOW"))
    ended = cli("policy", "validate", policy_file)
    assert ended.status == 2
    assert "spec.action" in ended.err
