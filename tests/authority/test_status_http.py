"""The status port: lists, certificates and health in the clear, for strangers and their caches."""

import asyncio
import base64
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from legation.authority.http.connection import Limits
from legation.authority.http.server import HTTPServer
from legation.authority.status_http import MAX_AGE_S, build_status_application
from legation.clock import FixedClock
from legation.pki import TrustBundle
from tests.fuzz.fuzz_http import one_input
from tests.support.fake_services import FakeAuthority
from tests.support.rest_server import Connection, run


class Status:
    def __init__(self):
        self.authority = FakeAuthority()
        # A little later than the lists that the tests publish.
        self.clock = FixedClock(datetime.now(UTC) + timedelta(seconds=2))
        self.server = HTTPServer(
            build_status_application(self.authority.services().status, clock=self.clock),
            host="127.0.0.1",
            port=0,
            limits=Limits(head_s=0.3),
        )
        self.connection = None

    async def ask(self, method, path, **options):
        self.connection = self.connection or Connection(self.server.port, None)
        return await self.connection.ask(method, path, **options)


@pytest.fixture
async def status():
    status = Status()
    await status.server.start()
    yield status
    if status.connection:
        status.connection.close()
    await status.server.stop()


async def test_health_and_readiness_tell_how_each_part_is(status):
    """healthz answers while the loop runs; readyz is 503 with the part that is not ready."""
    assert (await status.ask("GET", "/healthz")).json == {"status": "ok"}
    ready = await status.ask("GET", "/readyz")
    assert (ready.status, ready.json["parts"]) == (200, {"store": "ok"})
    status.authority.parts["issuer"] = "no key"
    not_ready = await status.ask("GET", "/readyz")
    assert (not_ready.status, not_ready.json["status"]) == (503, "not ready")
    assert not_ready.json["parts"]["issuer"] == "no key"
    assert not_ready.headers["cache-control"] == "no-store"


async def test_openssl_reads_the_list_that_curl_fetched(status, tmp_path):
    """The list is DER under its media type, as any verifier takes it."""
    issuer = status.authority.publish_crl()
    file = tmp_path / "list.crl"
    code, out, _ = await run(
        "curl", "-sS", "-o", str(file), "-w", "%{http_code} %{content_type}",
        f"http://127.0.0.1:{status.server.port}/crl/{issuer}/0.crl",
    )  # fmt: skip
    assert (code, out) == (0, b"200 application/pkix-crl")
    code, out, _ = await run(
        "openssl", "crl", "-inform", "DER", "-in", str(file), "-noout", "-crlnumber"
    )
    assert (code, out.strip()) == (0, b"crlNumber=0x01")


async def test_a_list_is_cached_no_longer_than_it_is_good_for(status):
    """max-age is bounded by five minutes and by nextUpdate, and never negative."""
    issuer = status.authority.publish_crl(validity_s=3600)
    path = f"/crl/{issuer}/0.crl"
    fresh = await status.ask("GET", path)
    assert fresh.headers["cache-control"] == f"public, max-age={MAX_AGE_S}"
    status.clock.advance(3600 - 100)
    left = (await status.ask("GET", path)).headers["cache-control"]
    assert left.startswith("public, max-age=")
    assert 90 <= int(left.rpartition("=")[2]) <= 101
    status.clock.advance(1000)
    assert (await status.ask("GET", path)).headers["cache-control"] == "public, max-age=0"


async def test_a_client_that_has_the_list_is_told_so(status):
    """Both validators give 304 for the same list, and 200 for a newer one."""
    issuer = status.authority.publish_crl(number=1)
    path = f"/crl/{issuer}/0.crl"
    first = await status.ask("GET", path)
    etag, modified = first.headers["etag"], first.headers["last-modified"]
    current = (
        {"if-none-match": etag},
        {"if-none-match": f'"other", W/{etag}'},
        {"if-none-match": "*"},
        {"if-modified-since": modified},
        {"if-none-match": etag, "if-modified-since": "Thu, 01 Jan 1970 00:00:00 GMT"},
    )
    for headers in current:
        answer = await status.ask("GET", path, headers=headers)
        assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", etag), headers
    stale = (
        {"if-none-match": '"other"'},
        {"if-none-match": '"other"', "if-modified-since": modified},
        {"if-modified-since": "Thu, 01 Jan 1970 00:00:00 GMT"},
        {"if-modified-since": "yesterday"},
        {"if-modified-since": "Mon, 99 Foo 99999 99:99:99"},
    )
    for headers in stale:
        assert (await status.ask("GET", path, headers=headers)).status == 200, headers
    status.authority.publish_crl(number=2)
    newer = await status.ask("GET", path, headers={"if-none-match": etag})
    assert newer.status == 200
    assert newer.headers["etag"] != etag


async def test_a_date_stands_for_a_list_only_when_no_other_can_have_it(status):
    """Within its first second a list has no Last-Modified: the next one could have the same."""
    issuer = status.authority.publish_crl()
    path = f"/crl/{issuer}/0.crl"
    dated = await status.ask("GET", path)
    status.clock.advance(-2)
    fresh = await status.ask("GET", path)
    assert "last-modified" not in fresh.headers
    assert fresh.headers["etag"] == dated.headers["etag"]
    since = {"if-modified-since": dated.headers["last-modified"]}
    assert (await status.ask("GET", path, headers=since)).status == 200
    status.clock.advance(2)
    assert (await status.ask("GET", path, headers=since)).status == 304


async def test_delta_lists_and_compact_sets_are_served_like_lists(status):
    """Under their own names and media types, with validators, and 404 where there is none."""
    issuer = status.authority.publish_crl()
    der = status.authority.crls[issuer, 0]
    for held, path, media_type in (
        (status.authority.deltas, f"/crl/{issuer}/0.delta.crl", "application/pkix-crl"),
        (
            status.authority.compact_sets,
            f"/revoked/{issuer}/0.set",
            "application/vnd.legation.revoked-set",
        ),
    ):
        assert (await status.ask("GET", path)).status == 404
        held[issuer, 0] = der
        found = await status.ask("GET", path)
        assert (found.status, found.headers["content-type"]) == (200, media_type)
        assert found.body == der
        assert found.headers["cache-control"] == f"public, max-age={MAX_AGE_S}"
        unchanged = {"if-none-match": found.headers["etag"]}
        assert (await status.ask("GET", path, headers=unchanged)).status == 304
        assert (await status.ask("GET", path.replace("/0.", "/00000000."))).status == 404
        assert (await status.ask("GET", path.replace(issuer, "nobody"))).status == 404


async def test_head_tells_the_same_without_the_body(status):
    """HEAD has the length and the validators of GET."""
    issuer = status.authority.publish_crl()
    full = await status.ask("GET", f"/crl/{issuer}/0.crl")
    head = await status.ask("HEAD", f"/crl/{issuer}/0.crl")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["etag"] == full.headers["etag"]
    assert int(head.headers["content-length"]) == len(full.body)


async def test_ca_certificates_are_fetched_by_key_id_and_all_at_once(status):
    """Each is DER under .cer and .crt; ca.pem has them all; the bundle is the SPIFFE document."""
    certificates = status.authority.services().status.authority_certificates()
    assert len(certificates) == 2
    for key_id, der in certificates.items():
        for suffix in ("cer", "crt"):
            answer = await status.ask("GET", f"/ca/{key_id}.{suffix}")
            assert answer.body == der
            assert answer.headers["content-type"] == "application/pkix-cert"
    pem = await status.ask("GET", "/ca.pem")
    assert len(x509.load_pem_x509_certificates(pem.body)) == 2
    bundle = await status.ask("GET", "/bundle")
    parsed = TrustBundle.from_document("example.org", bundle.json)
    assert parsed.x509_authorities == (status.authority.hierarchy.root,)
    assert base64.b64decode(bundle.json["keys"][0]["x5c"][0])


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1/status",
        "/metrics",
        "/ca/",
        "/ca/zz.cer",
        "/ca/../ca.pem",
        "/ca/" + "a" * 65 + ".crt",
        "/ca/00.cer",
        "/crl/00/0.crl",
        "/crl/{issuer}/1.crl",
        "/crl/{issuer}/-1.crl",
        "/crl/{issuer}/0x0.crl",
        "/crl/{issuer}/99999999999.crl",
        "/crl/{issuer}/%D9%A0.crl",
        "/crl/{issuer}/0.crl/",
        "/crl/{issuer}%00/0.crl",
        "/healthz/",
    ],
)
async def test_anything_else_is_not_there(status, path):
    """Other paths, ids and shards are 404 as a problem, whatever they are made of."""
    issuer = status.authority.publish_crl()
    answer = await status.ask("GET", path.replace("{issuer}", issuer))
    assert (answer.status, answer.code) == (404, "not_found")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
async def test_nothing_can_be_changed_here(status, method):
    """Every other method is 405."""
    answer = await status.ask(method, "/healthz")
    assert (answer.status, answer.code) == (405, "invalid_input")
    assert "GET" in answer.headers["allow"]


async def test_a_defect_is_a_plain_500(status, caplog):
    """An unexpected error tells the stranger nothing, and the log everything."""
    status.authority.parts = None
    answer = await status.ask("GET", "/readyz")
    assert (answer.status, answer.code) == (500, "internal")
    assert answer.json["detail"] == "the authority failed"
    assert "AttributeError" in caplog.text


async def test_malformed_input_brings_the_port_down_in_no_way(status):
    """After a series of hostile connections the port still answers."""
    hostile = (
        b"\x00" * 100,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET " + b"/" * 40_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + b"x: y\r\n" * 1000 + b"\r\n",
        b"POST /healthz HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n",
        b"\r\n" * 1000,
        b"GET /healthz HTTP/1.1\r\nhost: x\r\n",
    )
    for data in hostile:
        reader, writer = await asyncio.open_connection("127.0.0.1", status.server.port)
        writer.write(data)
        try:
            answer = await asyncio.wait_for(reader.read(), 5)
        except ConnectionResetError:
            answer = b""
        assert answer == b"" or answer[9:10] == b"4", data[:40]
        writer.close()
    assert (await status.ask("GET", "/healthz")).status == 200


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET /healthz HTTP/1.1\r\n\r\n" * 3,
        b"GET /crl/aa/%00.crl HTTP/1.0\r\n\r\nrest",
        b"OPTIONS * HTTP/1.1\r\n\r\n",
        b"GET http://x/healthz HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\nxx",
        b"POST /v1/enrol HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n[]",
    ],
)
def test_the_fuzz_target_holds_its_own_seeds(data):
    """The target that the fuzzer drives accepts well-known shapes of trouble."""
    one_input(data)


async def test_the_clock_may_stand_before_the_list(status):
    """A list from the future is served like any other."""
    issuer = status.authority.publish_crl()
    status.clock.advance(-timedelta(days=1).total_seconds())
    assert (await status.ask("GET", f"/crl/{issuer}/0.crl")).status == 200
