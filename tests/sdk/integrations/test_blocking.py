"""Libraries that block: requests, http.server and WSGI."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests

from legation.sdk.authorize import authorize_any, authorize_id, authorize_policy
from legation.sdk.integrations import http_server, wsgi
from legation.sdk.integrations.requests import SourceAdapter
from legation.testing import InMemorySource, InMemoryTrustDomain

API, WEB = "spiffe://example.test/api", "spiffe://example.test/web"


class Orders(http_server.RequestHandler):
    waiting = threading.Event()

    def do_GET(self) -> None:  # noqa: N802 - the name http.server looks for
        if self.path == "/orders/slow":
            self.waiting.wait(10)
        body = f"{self.path} by {self.peer.spiffe_id}".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def running(server: Any) -> Iterator[str]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def serving(source: InMemorySource, **options: Any) -> Iterator[str]:
    options = {"authorize": authorize_id(WEB), **options}
    with running(http_server.HTTPServer(("127.0.0.1", 0), Orders, source=source, **options)) as url:
        yield url


@contextmanager
def calling(source: InMemorySource, expected: str = API) -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        session.mount("https://", SourceAdapter(source, authorize=authorize_id(expected)))
        yield session


def test_requests_and_http_server_know_each_other(api: InMemorySource, web: InMemorySource) -> None:
    """A handler finds its peer, on the same connection again and again."""
    with serving(api) as url, calling(web) as session:
        for number in range(3):
            assert session.get(f"{url}/orders/{number}").text == f"/orders/{number} by {WEB}"


def test_requests_refuses_the_wrong_server(api: InMemorySource, web: InMemorySource) -> None:
    """The error of the library says which identity it was."""
    with (
        serving(api) as url,
        calling(web, f"{API}/2") as session,
        pytest.raises(requests.exceptions.SSLError, match="wrong_identity"),
    ):
        session.get(f"{url}/orders/7")


@pytest.mark.parametrize(
    "options", [{"verify": False}, {"verify": "/nowhere"}, {"cert": "/nowhere"}]
)
def test_requests_cannot_be_told_not_to_verify(
    api: InMemorySource, web: InMemorySource, options: dict[str, Any]
) -> None:
    """``verify=False`` and files have no effect."""
    with serving(api) as url:
        with (
            calling(web, f"{API}/2") as session,
            pytest.raises(requests.exceptions.SSLError, match="wrong_identity"),
        ):
            session.get(f"{url}/orders/7", **options)
        with calling(web) as session:
            assert session.get(f"{url}/orders/7", **options).status_code == 200


def test_http_server_refuses_the_wrong_client(
    domain: InMemoryTrustDomain, api: InMemorySource
) -> None:
    """An identity that is not authorized never reaches a handler."""
    with (
        serving(api) as url,
        calling(domain.source("/other")) as session,
        pytest.raises(requests.exceptions.ConnectionError),
    ):
        session.get(f"{url}/orders/7")
    assert [report.cause for report in api.refusals] == ["wrong_identity"]


def test_a_revoked_client_is_cut_off(
    domain: InMemoryTrustDomain, api: InMemorySource, web: InMemorySource
) -> None:
    """A request in progress gets no answer, and there is no new connection."""
    Orders.waiting.clear()
    with serving(api) as url, calling(web) as session:
        errors: list[Exception] = []

        def ask() -> None:
            try:
                session.get(f"{url}/orders/slow", timeout=5)
            except requests.exceptions.RequestException as error:
                errors.append(error)

        caller = threading.Thread(target=ask)
        caller.start()
        _until(lambda: len(_registry(api)) == 1)
        domain.revoke(web)
        caller.join(3)
        assert not caller.is_alive()
        Orders.waiting.set()
        assert len(errors) == 1
        with pytest.raises(requests.exceptions.ConnectionError):
            session.get(f"{url}/orders/7")


def test_a_client_that_does_not_shake_hands_keeps_nobody_waiting(
    api: InMemorySource, web: InMemorySource
) -> None:
    """Handshakes are not in the way of accepting."""
    with serving(api) as url, calling(web) as session:
        silent = [
            socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) for _ in range(3)
        ]
        assert session.get(f"{url}/orders/7", timeout=3).status_code == 200
        for each in silent:
            each.close()


def test_http_server_decides_by_policies(
    domain: InMemoryTrustDomain, api: InMemorySource, web: InMemorySource, allow: Any
) -> None:
    """What no policy allows is 403 with the deciding policy; the path is the decided one."""
    options = {"authorize": authorize_any(), "policy": authorize_policy(api)}
    with serving(api, **options) as url, calling(web) as session:
        denied = session.get(f"{url}/orders/7")
        assert (denied.status_code, denied.json()["policy"]) == (403, "default-deny")
        domain.apply(allow)
        assert session.get(f"{url}/orders/7").text == f"/orders/7 by {WEB}"
        assert session.get(f"{url}/admin").status_code == 403


def application(environment: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("content-type", "text/plain")])
    names = ("SSL_CLIENT_VERIFY", "SSL_CLIENT_SAN_URI_0", "SSL_CLIENT_M_SERIAL", "wsgi.url_scheme")
    words = [environment[name] for name in names]
    return [" ".join([environment["PATH_INFO"], *words]).encode()]


def test_wsgi_applications_know_their_peer(api: InMemorySource, web: InMemorySource) -> None:
    """The environment says who asks, in the words of mod_ssl as well."""
    server = wsgi.make_server("127.0.0.1", 0, application, source=api, authorize=authorize_id(WEB))
    with running(server) as url, calling(web) as session:
        serial = format(web.identity.serial, "X")
        assert session.get(f"{url}/orders/7").text == f"/orders/7 SUCCESS {WEB} {serial} https"


def test_wsgi_applications_are_guarded_by_policies(
    domain: InMemoryTrustDomain, api: InMemorySource, web: InMemorySource, allow: Any
) -> None:
    """403 with the deciding policy; the application sees the path that was decided on."""
    guarded = wsgi.PolicyMiddleware(application, authorize_policy(api))
    server = wsgi.make_server("127.0.0.1", 0, guarded, source=api, authorize=authorize_any())
    with running(server) as url, calling(web) as session:
        assert session.get(f"{url}/orders/7").json()["policy"] == "default-deny"
        domain.apply(allow)
        assert session.get(f"{url}/orders/7").status_code == 200
        assert session.post(f"{url}/orders/7").status_code == 403
        assert _ask(guarded, api, "/x/%2E%2e/orders/7", web).startswith("/orders/7 ")


def test_a_wsgi_request_without_a_peer_is_refused(api: InMemorySource) -> None:
    """Behind a server that does not say who asks, nobody gets in."""
    guarded = wsgi.PolicyMiddleware(application, authorize_policy(api))
    found: list[str] = []
    body = guarded(
        {"REQUEST_METHOD": "GET", "PATH_INFO": "/orders/7"}, lambda status, _: found.append(status)
    )
    assert found == ["401 Unauthorized"]
    assert b"not_authenticated" in b"".join(body)


def _ask(app: Any, api: InMemorySource, path: str, web: InMemorySource) -> str:
    """Call an application as a server does that gives no more than the standard asks for."""
    from legation.sdk.model import Peer

    peer = Peer(
        spiffe_id=web.spiffe_id,
        serial=web.identity.serial,
        not_after=web.identity.svid.not_after,
        certificate=b"",
    )
    environment = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/x/../orders/7",
        "RAW_URI": path,
        "legation.peer": peer,
        **dict.fromkeys(("SSL_CLIENT_VERIFY", "SSL_CLIENT_SAN_URI_0"), ""),
        **dict.fromkeys(("SSL_CLIENT_M_SERIAL", "wsgi.url_scheme"), ""),
    }
    return b"".join(app(environment, lambda *_: None)).decode()


def _registry(source: InMemorySource) -> Any:
    from legation.sdk.connections import connections_of

    return connections_of(source)


def _until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not come to pass")
