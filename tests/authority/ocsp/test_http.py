"""OCSP over HTTP: methods, media types, sizes, and what caches are told."""

from email.utils import parsedate_to_datetime

import pytest
from cryptography import x509
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID

from legation.authority.http import requests
from legation.authority.settings import AuthoritySettings
from legation.pki.ocsp import OCSPError, build_error
from tests.support.authority import running, settings_for
from tests.support.ocsp import certified
from tests.support.rest_server import Connection

MALFORMED = build_error(OCSPError.MALFORMED_REQUEST)
UNAUTHORIZED = build_error(OCSPError.UNAUTHORIZED)


async def test_get_and_post_give_the_same_kept_answer(asker):
    """Whoever asks without a nonce is given the same bytes, by either method."""
    data = asker.question().to_der()
    posted, got, again = await asker.post(data), await asker.get(data), await asker.get(data)
    assert posted.status == got.status == 200
    assert posted.headers["content-type"] == "application/ocsp-response"
    assert posted.body == got.body == again.body


async def test_caches_may_keep_an_answer_for_a_while(asker):
    """max-age is bounded by five minutes; the validators are those of the response."""
    got = await asker.get(asker.question().to_der())
    response = ocsp.load_der_ocsp_response(got.body)
    assert got.headers["cache-control"] == "max-age=300, public, no-transform, must-revalidate"
    modified = parsedate_to_datetime(got.headers["last-modified"])
    assert modified == response.this_update_utc
    expires = parsedate_to_datetime(got.headers["expires"])
    assert modified < expires <= response.next_update_utc


async def test_a_client_that_has_the_answer_is_told_so(asker):
    """The validator gives 304, until a revocation makes it another answer."""
    data = asker.question().to_der()
    etag = (await asker.get(data)).headers["etag"]
    same = await asker.get(data, **{"if-none-match": f'"other", {etag}'})
    assert (same.status, same.body, same.headers["etag"]) == (304, b"", etag)
    await asker.revoke()
    other = await asker.get(data, **{"if-none-match": etag})
    assert other.status == 200
    response = ocsp.load_der_ocsp_response(other.body)
    assert response.certificate_status is ocsp.OCSPCertStatus.REVOKED
    assert response.revocation_reason.value == "keyCompromise"


async def test_head_tells_the_same_without_the_body(asker):
    """HEAD has the length and the validator of GET."""
    data = asker.question().to_der()
    full, head = await asker.get(data), await asker.get(data, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["etag"] == full.headers["etag"]
    assert int(head.headers["content-length"]) == len(full.body)


@pytest.mark.parametrize("serial", [0, 1])
async def test_what_must_not_be_kept_says_so(asker, serial):
    """An answer to a nonce, and one about an unknown certificate, are for the asker alone."""
    nonce = b"n" if serial == 0 else None
    data = asker.question(serial=asker.serial + serial, nonce=nonce).to_der()
    got = await asker.get(data)
    assert got.headers["cache-control"] == "no-store"
    assert "etag" not in got.headers
    response = ocsp.load_der_ocsp_response(got.body)
    assert response.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL
    wanted = ocsp.OCSPCertStatus.UNKNOWN if serial else ocsp.OCSPCertStatus.GOOD
    assert response.certificate_status is wanted


@pytest.mark.parametrize(
    "path",
    [
        "/ocsp",
        "/ocsp/",
        "/ocsp/!!!",
        "/ocsp/MAo",
        "/ocsp/MAA=",
        "/ocsp/%FF%00",
        "/ocsp/" + "A" * 12000,
    ],
)
async def test_what_is_no_request_is_malformed(asker, path):
    """By GET, whatever stands in the path."""
    answer = await asker.connection.ask("GET", path)
    assert (answer.status, answer.body) == (200, MALFORMED)
    assert answer.headers["cache-control"] == "no-store"


async def test_a_body_that_is_no_request_is_malformed(asker):
    """By POST, with the right media type."""
    for body in (b"", b"\x30\x00", b"not DER", asker.question().to_der() + b"\0"):
        answer = await asker.post(body)
        assert (answer.status, answer.body) == (200, MALFORMED), body


async def test_what_http_itself_forbids_is_a_problem(asker):
    """Another method, another media type, and a body that is too long."""
    refused = await asker.connection.ask("DELETE", "/ocsp")
    assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD, POST")
    data = asker.question().to_der()
    assert (await asker.post(data, **{"content-type": "text/plain"})).status == 415
    assert (await asker.post(bytes(8193))).status == 413


async def test_a_body_that_is_long_in_pieces_is_refused(asker):
    """The bound holds for a body that does not say how long it is."""
    connection = Connection(asker.world.status.port, None)
    pieces = iter([bytes(4096)] * 3)
    answer = await connection.ask(
        "POST", "/ocsp", raw=pieces, headers={"content-type": "application/ocsp-request"}
    )
    connection.close()
    assert answer.status == 413


async def test_a_body_that_never_ends_is_given_up(asker, monkeypatch):
    """A client that stops in the middle is told after the time for a body."""
    monkeypatch.setattr(requests, "BODY_S", 0.05)
    connection = Connection(asker.world.status.port, None)
    answer = await connection.ask(
        "POST",
        "/ocsp",
        raw=b"\x30",
        headers={"content-type": "application/ocsp-request", "content-length": "100"},
    )
    connection.close()
    assert answer.status == 408


@pytest.mark.parametrize("path", ["/ocspx", "/ocs", "/OCSP"])
async def test_other_paths_are_not_the_responder_s(asker, path):
    """Only its own path and what is below it."""
    assert (await asker.connection.ask("GET", path)).status == 404


async def test_a_defect_is_an_internal_error(asker, monkeypatch, caplog):
    """An unexpected failure tells the stranger nothing, and the log everything."""

    async def fail(_data):
        raise RuntimeError("the inside of the thing")

    monkeypatch.setattr(asker.world.authority.ocsp, "answer", fail)
    answer = await asker.post(asker.question().to_der())
    assert answer.body == build_error(OCSPError.INTERNAL_ERROR)
    assert "the inside of the thing" in caplog.text


async def test_the_responder_can_be_switched_off(tmp_path):
    """Then its path is not there, and agents are told that theirs is not either."""
    async with running(settings_for(tmp_path, ocsp_enabled=False)) as world:
        asker = await certified(world)
        assert (await asker.get(asker.question().to_der())).status == 404
        asker.connection.close()
        async with asker.agent.connected() as caller:
            assert (await caller.post("/agent/v1/staples", b"")).status == 404


@pytest.mark.parametrize("named", [False, True])
async def test_certificates_name_the_responder_if_told_to(tmp_path, named):
    """Off by default; the responder's own certificate never names itself."""
    settings: AuthoritySettings = settings_for(
        tmp_path, status_url="http://status.example", ocsp_in_certificates=named
    )
    async with running(settings) as world:
        asker = await certified(world)
        said = ocsp_urls(asker.leaf)
        assert said == (["http://status.example/ocsp"] if named else [])
        answer = ocsp.load_der_ocsp_response((await asker.post(asker.question().to_der())).body)
        assert ocsp_urls(answer.certificates[0]) == []
        asker.connection.close()


def ocsp_urls(certificate):
    access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess)
    method = AuthorityInformationAccessOID.OCSP
    return [place.access_location.value for place in access.value if place.access_method == method]
