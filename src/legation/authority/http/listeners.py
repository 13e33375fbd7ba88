"""The authority's HTTP listeners: the API with TLS, and the status port without."""

from typing import Any

from legation.authority.http.server import HTTPServer
from legation.authority.http.tls import ServingTLS
from legation.authority.issuing.serving import ServingCredentials, ServingIdentity
from legation.authority.ocsp.http import OCSPHTTP
from legation.authority.rest.application import build_application
from legation.authority.status_http import build_status_application
from legation.authority.wiring import Authority
from legation.clock import Clock
from legation.wire.agent_calls import PATH_PREFIX


def api_listener(authority: Authority, *, host: str, port: int, clock: Clock) -> HTTPServer:
    """Return the HTTPS listener: operators, enrolment, the bundle, and agents' requests."""
    agents, rest = authority.agents, build_application(authority.services, clock=clock)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        chosen = agents if scope["path"].startswith(PATH_PREFIX) else rest
        await chosen(scope, receive, send)

    return HTTPServer(application, host=host, port=port, tls=serving_tls(authority.serving))


def status_listener(authority: Authority, *, host: str, port: int, clock: Clock) -> HTTPServer:
    """Return the plain HTTP listener: OCSP, lists, CA certificates, health."""
    pages = build_status_application(authority.services.status, clock=clock)
    if authority.ocsp is None:
        return HTTPServer(pages, host=host, port=port)
    ocsp = OCSPHTTP(authority.ocsp, clock=clock)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        chosen = ocsp if ocsp.serves(scope["path"]) else pages
        await chosen(scope, receive, send)

    return HTTPServer(application, host=host, port=port)


def serving_tls(serving: ServingIdentity) -> ServingTLS:
    """Return TLS for a listener that follows the authority's own certificate."""
    first = serving.credentials
    tls = ServingTLS(
        certificates_pem=first.certificates_pem,
        key_pem=first.key_pem,
        authorities_pem=first.authorities_pem,
    )

    def follow(credentials: ServingCredentials) -> None:
        tls.reload(
            certificates_pem=credentials.certificates_pem,
            key_pem=credentials.key_pem,
            authorities_pem=credentials.authorities_pem,
        )

    serving.subscribe(follow)
    return tls
