"""A client of the authority's REST interface, on the standard library alone.

TLS 1.3 only. The authority is verified by the trust bundle and by its SPIFFE ID; host
names and addresses prove nothing here.
"""

import http.client
import json
import ssl
import sys
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlencode

from legation import __version__
from legation.causes import Cause, Failure, cause_of
from legation.cli.credential import OperatorCredential
from legation.errors import (
    InternalError,
    InvalidInput,
    LegationError,
    NotAuthenticated,
    TimedOut,
    Unavailable,
    VerificationError,
    error_from_code,
)

AUTHORITY_PATH = "/legation/authority"
MAX_BODY_SIZE = 64 << 20
MAX_LINE_SIZE = 1 << 20
_PAGE_SIZE = 1000

T = TypeVar("T")


class APIClient:
    """One connection to the authority.

    Args:
        server: ``host:port``.
        credential: who we are and whom we trust.
        timeout_s: how long to wait for the connection and for each answer.
    """

    def __init__(self, server: str, credential: OperatorCredential, *, timeout_s: float) -> None:
        self.credential = credential
        self._server = server
        host, port = split_address(server)
        self._connection = _AuthorityConnection(
            host,
            port,
            context=_context(credential),
            authority=f"spiffe://{self.trust_domain}{AUTHORITY_PATH}",
            timeout_s=timeout_s,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def trust_domain(self) -> str:
        """The trust domain of the authority and of ours."""
        return str(self.credential.spiffe_id.trust_domain)

    @property
    def bundle_pem(self) -> str:
        """The roots of the trust domain."""
        return self.credential.bundle_pem

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def get(self, *path: str, **query: object) -> Any:
        """Fetch one document.

        Args:
            path: the segments after ``/v1``.
            query: parameters; a None is left out.
        """
        return self._request("GET", path, query=query)

    def post(self, *path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Create or act."""
        return self._request("POST", path, body=body or {})

    def put(self, *path: str, body: Mapping[str, Any]) -> Any:
        """Create or replace."""
        return self._request("PUT", path, body=body)

    def patch(self, *path: str, body: Mapping[str, Any]) -> Any:
        """Change the given fields."""
        return self._request("PATCH", path, body=body)

    def delete(self, *path: str) -> None:
        """Delete."""
        self._request("DELETE", path)

    def pages(
        self, *path: str, most: int | None = None, **query: object
    ) -> Iterator[dict[str, Any]]:
        """Yield the items of a list, page by page; at most `most`, or all of them."""
        after = query.pop("after", None)
        left = sys.maxsize if most is None else most
        while left > 0:
            page = self.get(*path, **query, after=after, limit=min(left, _PAGE_SIZE))
            yield from page["items"]
            left -= len(page["items"])
            after = page["next"]
            if after is None:
                return

    def stream(self, *path: str, silence_s: float, **query: object) -> Iterator[dict[str, Any]]:
        """Yield the objects of an NDJSON stream as they come; a `problem` among them is raised.

        Args:
            path: the segments after ``/v1``.
            silence_s: how long the stream may say nothing.
            query: as for `get`.
        """
        self._connection.set_timeout(silence_s)
        response = self._send("GET", path, query=query)
        while line := _reading(self._server, lambda: response.readline(MAX_LINE_SIZE + 1)):
            if len(line) > MAX_LINE_SIZE:
                raise InternalError("the authority sent a line of more than 1 MiB")
            if not line.strip():
                continue
            item = _parsed(line)
            if item.get("problem"):
                raise _error_from_problem(item["problem"])
            yield item

    def _request(
        self,
        method: str,
        path: tuple[str, ...],
        *,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Any:
        response = self._send(method, path, query=query, body=body)
        data = _reading(self._server, lambda: response.read(MAX_BODY_SIZE + 1))
        if len(data) > MAX_BODY_SIZE:
            raise InternalError("the authority sent more than 64 MiB")
        return _parsed(data) if data else None

    def _send(
        self,
        method: str,
        path: tuple[str, ...],
        *,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> http.client.HTTPResponse:
        target = "/v1/" + "/".join(quote(segment, safe="") for segment in path)
        wanted = {name: value for name, value in (query or {}).items() if value is not None}
        if wanted:
            target += "?" + urlencode(wanted)
        headers = {"accept": "application/json", "user-agent": f"legation/{__version__}"}
        payload = None
        if body is not None:
            payload = json.dumps(body).encode()
            headers["content-type"] = "application/json"

        def exchange() -> http.client.HTTPResponse:
            try:
                self._connection.request(method, target, body=payload, headers=headers)
            except (ssl.SSLEOFError, ConnectionError):
                self._connection.read_alert()
                raise
            return self._connection.getresponse()

        response = _reading(self._server, exchange)
        if response.status >= HTTPStatus.BAD_REQUEST:
            raise _error_of(response.status, response.read(MAX_BODY_SIZE))
        return response


def split_address(text: str) -> tuple[str, int]:
    """Read ``host:port``; ``https://`` before it and a slash after it do no harm.

    Raises:
        InvalidInput: not an address.
    """
    bare = text.removeprefix("https://").rstrip("/")
    host, colon, port = bare.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise InvalidInput(
            f"{text[:80]!a} is not an address", remedy="write host:port, an IPv6 host in brackets"
        )
    return host, int(port)


class _AuthorityConnection(http.client.HTTPConnection):
    """HTTP over TLS to a peer that must show one given SPIFFE ID."""

    def __init__(
        self, host: str, port: int, *, context: ssl.SSLContext, authority: str, timeout_s: float
    ) -> None:
        super().__init__(host, port, timeout=timeout_s)
        self._context = context
        self._authority = authority

    def set_timeout(self, seconds: float) -> None:
        """Wait so long from now on."""
        self.timeout = seconds
        if self.sock is not None:
            self.sock.settimeout(seconds)

    def read_alert(self) -> None:
        """Raise the TLS alert that waits unread, if one does.

        In TLS 1.3 the client is done before the server has looked at its certificate, so a
        refusal arrives while the request is being written (RFC 8446, section 4.4.2.4).
        """
        if self.sock is not None:
            self.sock.recv(1)

    def connect(self) -> None:
        """Connect, and check who answered before anything is sent."""
        super().connect()
        name = self.host if _is_dns_name(self.host) else None
        self.sock = self._context.wrap_socket(self.sock, server_hostname=name)
        shown = _uris_of(self.sock.getpeercert() or {})
        # X509-SVID, section 2: exactly one URI SAN, and it is the SPIFFE ID.
        if shown != [self._authority]:
            self.close()
            found = ", ".join(shown) or "no SPIFFE ID"
            raise VerificationError(
                [
                    Failure(
                        cause=Cause.WRONG_IDENTITY,
                        detail=f"expected {self._authority}, the server shows {found}",
                    )
                ]
            )


def _context(credential: OperatorCredential) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the SPIFFE ID is checked instead, in `connect`
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=credential.bundle_pem)
    context.load_cert_chain(credential.path)
    return context


def _is_dns_name(host: str) -> bool:
    # RFC 6066, section 3: no address in the server_name extension.
    return ":" not in host and not host.replace(".", "").isdigit()


def _uris_of(certificate: Mapping[str, Any]) -> list[str]:
    return [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]


def _reading(server: str, step: Callable[[], T]) -> T:
    """Do one step over the network, and say in our words what went wrong."""
    try:
        return step()
    except ssl.SSLCertVerificationError as error:
        found = error.verify_message
        raise VerificationError(
            [Failure(cause=cause_of(found), detail=found, subject=f"the authority at {server}")]
        ) from None
    except ssl.SSLError as error:
        raise _refused(server, error.reason or str(error)) from None
    except TimeoutError:
        raise TimedOut(f"the authority at {server} did not answer in time") from None
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise Unavailable(
            f"the authority at {server} cannot be reached: {reason}",
            remedy="check --server, and that `legation server run` runs there",
        ) from None
    except http.client.HTTPException as error:
        raise Unavailable(
            f"what answers at {server} does not speak HTTP: {type(error).__name__}",
            remedy="check --server: the address is that of the authority's API",
        ) from None


def _refused(server: str, reason: str) -> LegationError:
    # An alert is the other side's word: it did not like what we showed.
    if "ALERT" not in reason:
        return Unavailable(
            f"no TLS 1.3 with {server}: {reason.lower().replace('_', ' ')}",
            remedy="check --server: the address is that of the authority's API",
        )
    cause = cause_of(reason)
    return NotAuthenticated(
        f"the authority at {server} refuses our certificate: {cause.explanation}",
        remedy="get a new credential: `legation server operator-certificate` on its machine",
    )


def _error_of(status: int, data: bytes) -> LegationError:
    try:
        return _error_from_problem(json.loads(data))
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return InternalError(f"the authority answered {status} without saying why")


def _error_from_problem(problem: Mapping[str, Any]) -> LegationError:
    """Rebuild the error that a problem document (RFC 9457) describes."""
    remedy = problem.get("remedy")
    if problem.get("failures"):
        return VerificationError(map(_failure_of, problem["failures"]), remedy=remedy)
    return error_from_code(str(problem["code"]), str(problem["detail"]), remedy=remedy)


def _failure_of(fields: Mapping[str, str]) -> Failure:
    return Failure(
        cause=Cause(fields["cause"]), detail=fields["detail"], subject=fields.get("subject", "")
    )


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise InternalError("the authority's answer is not JSON") from None
