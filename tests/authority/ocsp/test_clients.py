"""What real clients make of the answers."""

import json

import pytest
from pkilint.bin import lint_ocsp_response

from legation.pki import certificates_to_pem
from legation.pki.ocsp import check_response
from tests.support.pki import CA, make
from tests.support.rest_server import run


@pytest.mark.parametrize("options", [[], ["-no_nonce"], ["-sha256"], ["-sha256", "-no_nonce"]])
async def test_openssl_believes_the_answer(asker, options):
    """With SHA-1 and SHA-256, with and without a nonce: verified against the root, and good."""
    code, said = await asker.openssl(*options)
    assert code == 0, said
    assert "Response verify OK" in said
    assert "leaf.pem: good" in said
    assert "WARNING: no nonce" not in said


async def test_the_next_answer_after_a_revocation_says_so(asker):
    """An answer is kept, and the first one after the revocation says revoked, with the reason."""
    for _ in range(2):
        assert "leaf.pem: good" in (await asker.openssl("-no_nonce"))[1]
    await asker.revoke()
    for options in (["-no_nonce"], []):
        _, said = await asker.openssl(*options)
        assert "leaf.pem: revoked" in said
        assert "Reason: keyCompromise" in said


async def test_a_stranger_s_root_does_not_vouch_for_the_responder(asker, tmp_path):
    """Who trusts another root is told nothing that counts."""
    root = make(CA, subject="Another root").certificate
    other = tmp_path / "other.pem"
    other.write_bytes(certificates_to_pem([root]))
    code, said = await asker.openssl("-no_nonce", trust=other)
    assert code != 0
    assert "Response Verify Failure" in said


async def test_openssl_asks_about_two_certificates_at_once(asker):
    """One request about several certificates is answered in one response."""
    _, issuer = asker.files()
    never = asker.serial + 1
    code, out, err = await run(
        "openssl", "ocsp", "-issuer", str(issuer), "-serial", str(asker.serial),
        "-serial", str(never), "-url", asker.url, "-CAfile", str(asker.world.roots),
    )  # fmt: skip
    said = (out + err).decode()
    assert code == 0, said
    assert "Response verify OK" in said
    assert f"{asker.serial}: good" in said
    assert f"{never}: unknown" in said


async def test_curl_takes_an_answer_that_openssl_reads(asker, tmp_path):
    """GET with the request in the path, as a cache in between would send it."""
    request, response = tmp_path / "request.der", tmp_path / "response.der"
    request.write_bytes(asker.question().to_der())
    code, out, _ = await run("openssl", "base64", "-A", "-in", str(request))
    path = out.decode().replace("+", "%2B").replace("=", "%3D")  # slashes as they are
    code, out, _ = await run("curl", "-sS", "-o", str(response), f"{asker.url}/{path}")
    assert code == 0
    _, issuer = asker.files()
    code, out, err = await run(
        "openssl", "ocsp", "-respin", str(response), "-issuer", str(issuer),
        "-serial", str(asker.serial), "-CAfile", str(asker.world.roots), "-no_nonce",
    )  # fmt: skip
    assert "Response verify OK" in (out + err).decode()
    assert f"{asker.serial}: good" in out.decode()


# The linter leaves the files open that it reads.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("what", ["good", "revoked", "unknown", "nonce"])
async def test_an_independent_linter_has_nothing_to_say(asker, what, tmp_path, capsys):
    """Whatever the status, with and without a nonce."""
    if what == "revoked":
        await asker.revoke()
    serial = asker.serial + 1 if what == "unknown" else None
    nonce = b"n" * 32 if what == "nonce" else None
    answer = await asker.post(asker.question(serial=serial, nonce=nonce).to_der())
    file = tmp_path / "response.der"
    file.write_bytes(answer.body)
    lint_ocsp_response.main(["lint", str(file), "-s", "WARNING", "-f", "JSON"])
    told = json.loads(capsys.readouterr().out)
    assert [result["finding_descriptions"] for result in told["results"]] == []


async def test_our_own_check_believes_it_too(asker):
    """The client side of this project clears the certificate with the answer."""
    request = asker.question(hash_name="sha256", nonce=b"12345678")
    answer = await asker.post(request.to_der())
    check_response(
        answer.body,
        request=request,
        issuer_certificate=asker.issuer,
        at=asker.world.clock.now(),
    )
