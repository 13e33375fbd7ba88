"""The REST client against servers that behave well, badly and not at all."""

import contextlib
import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from legation.causes import Cause
from legation.cli.api_client import APIClient, split_address
from legation.cli.credential import OperatorCredential
from legation.errors import (
    OUTCOMES,
    InternalError,
    InvalidInput,
    LegationError,
    NotAuthenticated,
    TimedOut,
    Unavailable,
    VerificationError,
)
from legation.pki import certificates_to_pem, private_key_to_pem
from tests.support.pki import CA, LEAF, Made, make

NOW = datetime.now(UTC)
TIMES = {"not_before": NOW - timedelta(hours=1), "not_after": NOW + timedelta(hours=1)}
AUTHORITY = "spiffe://example.org/legation/authority"
Answer = Callable[[ssl.SSLSocket], None]


class Scene:
    """A root, an operator's credential, and servers to speak to."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self.root = make(CA, subject="root", uris=("spiffe://example.org",), **TIMES)
        operator = make(
            LEAF, self.root, uris=("spiffe://example.org/legation/operator/admin",), **TIMES
        )
        credential = folder / "operator"
        credential.mkdir(mode=0o700)
        _write_pair(credential / "operator.pem", operator)
        (credential / "bundle.pem").write_bytes(certificates_to_pem([self.root.certificate]))
        self.credential = OperatorCredential.load(credential)

    def serve(
        self,
        answer: Answer,
        *,
        uri: str = AUTHORITY,
        root: Made | None = None,
        refuse: bool = False,
    ) -> APIClient:
        """Start a server that answers one connection, and return a client of it."""
        made = make(LEAF, root or self.root, uris=(uri,), **TIMES)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        pair = self._folder / "server.pem"
        _write_pair(pair, made)
        context.load_cert_chain(pair)
        if refuse:  # trusts nobody who comes
            context.verify_mode = ssl.CERT_REQUIRED
        listener = self._stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        thread = threading.Thread(target=_accept, args=(listener, context, answer))
        thread.start()
        self._stack.callback(thread.join, 10)
        return self.client(listener.getsockname()[1])

    def client(self, port: int, timeout_s: float = 5) -> APIClient:
        """Return a client of a port."""
        server = f"127.0.0.1:{port}"
        return self._stack.enter_context(APIClient(server, self.credential, timeout_s=timeout_s))


def _accept(listener: socket.socket, context: ssl.SSLContext, answer: Answer) -> None:
    with contextlib.suppress(OSError):
        raw, _ = listener.accept()
        raw.settimeout(10)
        with context.wrap_socket(raw, server_side=True) as connection:
            request = chunk = connection.recv(65536)
            while chunk and not _complete(request):
                request += (chunk := connection.recv(65536))
            answer(connection)


def _complete(request: bytes) -> bool:
    head, end, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: *([0-9]+)", head)
    return bool(end) and len(body) >= (int(length[1]) if length else 0)


def _write_pair(path: Path, made: Made) -> None:
    path.touch(mode=0o600)
    path.write_bytes(private_key_to_pem(made.key) + certificates_to_pem([made.certificate]))


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Everything a test needs; servers end with it."""
    with contextlib.ExitStack() as stack:
        yield Scene(tmp_path, stack)


def _reply(body: bytes, status: str = "200 OK", kind: str = "application/json") -> Answer:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return lambda connection: connection.sendall(head.encode() + body)


def test_a_document_is_fetched_from_the_authority(scene: Scene) -> None:
    """A server with the authority's identity is asked, and its JSON returned."""
    assert scene.serve(_reply(b'{"a": 1}')).get("status") == {"a": 1}


@pytest.mark.parametrize(
    "uri", ["spiffe://example.org/api", "spiffe://other.org/legation/authority"]
)
def test_any_other_identity_is_refused(uri: str, scene: Scene) -> None:
    """A server that is someone else, though our root certified it, gets no request."""
    with pytest.raises(VerificationError) as caught:
        scene.serve(_reply(b"{}"), uri=uri).get("status")
    assert [failure.cause for failure in caught.value.failures] == [Cause.WRONG_IDENTITY]
    assert uri in caught.value.message


def test_an_unknown_root_is_refused(scene: Scene) -> None:
    """A server of another root is refused with the cause."""
    other = make(CA, subject="other", uris=("spiffe://example.org",), **TIMES)
    with pytest.raises(VerificationError) as caught:
        scene.serve(_reply(b"{}"), root=other).get("status")
    assert caught.value.failures[0].cause is Cause.UNKNOWN_AUTHORITY


def test_a_refused_certificate_is_said_to_be_ours(scene: Scene) -> None:
    """When the server refuses our certificate, the error says whose and why."""
    with pytest.raises(NotAuthenticated, match="refuses our certificate: No trusted authority"):
        scene.serve(_reply(b"{}"), refuse=True).get("status")


def test_a_plain_http_port_is_recognised(scene: Scene) -> None:
    """A port that speaks no TLS is named as the probable mistake."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def plain() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=plain)
        thread.start()
        with pytest.raises(Unavailable, match=r"no TLS 1\.3"):
            scene.client(listener.getsockname()[1]).get("status")
        thread.join()


def test_nobody_there_is_unavailable(scene: Scene) -> None:
    """A closed port is status 3, with what to check."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(Unavailable, match="cannot be reached: Connection refused") as caught:
        scene.client(port).get("status")
    assert "--server" in (caught.value.remedy or "")


def test_silence_times_out(scene: Scene) -> None:
    """A server that accepts and says nothing is not waited for longer than allowed."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(TimedOut, match="did not answer in time"),
    ):
        scene.client(listener.getsockname()[1], timeout_s=0.1).get("status")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (_reply(b"{"), InternalError),
        (_reply(b"[" * 200_000), InternalError),
        (_reply(b"oops", status="500 Oops"), InternalError),
        (_reply(b"[]", status="404 Gone"), InternalError),
        (lambda connection: connection.sendall(b"SSH-2.0-x\r\n"), Unavailable),
        (lambda connection: connection.close(), Unavailable),
    ],
)
def test_a_broken_answer_is_an_error_of_ours(
    answer: Answer, kind: type[LegationError], scene: Scene
) -> None:
    """Whatever comes instead of an answer becomes one clean error."""
    with pytest.raises(kind):
        scene.serve(answer).get("status")


@pytest.mark.parametrize("kind", [k for k in OUTCOMES if k is not VerificationError])
def test_a_problem_becomes_the_error_it_was(kind: type[LegationError], scene: Scene) -> None:
    """Each code of a problem document is raised as the error of that code, remedy included."""
    problem = {"code": kind.code, "detail": "it is so", "remedy": "do this", "status": 400}
    with pytest.raises(kind) as caught:
        scene.serve(_reply(json.dumps(problem).encode(), status="400 Bad")).delete("entries", "x")
    assert (caught.value.message, caught.value.remedy) == ("it is so", "do this")


def test_failed_checks_travel_as_data(scene: Scene) -> None:
    """A VerificationError of the authority arrives with each of its failures."""
    failure = {"cause": "weak_key", "detail": "RSA of 1024 bits", "subject": "leaf"}
    problem = {"code": "verification_failed", "detail": "no", "failures": [failure, failure]}
    with pytest.raises(VerificationError) as caught:
        scene.serve(_reply(json.dumps(problem).encode(), status="422 No")).post("enrol")
    assert [(f.cause, f.subject) for f in caught.value.failures] == [(Cause.WEAK_KEY, "leaf")] * 2


def test_a_stream_comes_line_by_line(scene: Scene) -> None:
    """Objects are yielded one by one; empty lines keep the stream alive."""
    lines = b'{"point": 1}\n\n{"summary": 2}\n'
    client = scene.serve(_reply(lines))
    assert list(client.stream("propagation", "7", silence_s=5)) == [{"point": 1}, {"summary": 2}]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b'{"problem": {"code": "unavailable", "detail": "stopping"}}\n', Unavailable),
        (b"x" * (2 << 20), InternalError),
        (b"nope\n", InternalError),
    ],
)
def test_a_stream_that_goes_wrong_raises(
    line: bytes, kind: type[LegationError], scene: Scene
) -> None:
    """A problem among the lines is raised; an endless or unreadable line is refused."""
    with pytest.raises(kind):
        list(scene.serve(_reply(line)).stream("propagation", "7", silence_s=5))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8443", ("127.0.0.1", 8443)),
        ("https://ca.example.org:1/", ("ca.example.org", 1)),
        ("[::1]:8443", ("::1", 8443)),
    ],
)
def test_addresses_are_read(text: str, address: tuple[str, int]) -> None:
    """Host and port, with IPv6 in brackets; a URL's beginning does no harm."""
    assert split_address(text) == address


@pytest.mark.parametrize("text", ["", "host", "host:", ":1", "host:0", "host:65536", "host:x"])
def test_bad_addresses_are_refused(text: str) -> None:
    """What is no address is refused with the right form."""
    with pytest.raises(InvalidInput, match="is not an address"):
        split_address(text)
