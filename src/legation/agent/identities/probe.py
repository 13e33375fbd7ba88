"""What a TLS endpoint presents, seen from outside.

A certificate that was issued, proved and published is in force only when a peer that connects
is shown it. The probe is that peer. It goes through the handshake up to the point where the
endpoint has shown its chain and proved that it holds the key (RFC 8446, section 4.4.3), and,
unless it was given a certificate to show, leaves there: nothing reaches the application, and
an endpoint that demands client certificates has nothing to refuse.
"""

import asyncio
import contextlib
import ssl
import struct
from collections.abc import AsyncIterator, Sequence
from enum import StrEnum
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from legation.agent.tls import presented_chain, use_identity
from legation.causes import Cause, cause_of
from legation.errors import LegationError, TimedOut, Unavailable
from legation.pki import PrivateKey

TIMEOUT_S = 5.0
# A server's whole flight is a few kilobytes; with post-quantum chains some dozens.
MAX_BYTES = 256 * 1024
_READ_SIZE = 16 * 1024

# SSLRequest of PostgreSQL's protocol: its length, and the code 1234 << 16 | 5679.
_POSTGRES_SSL_REQUEST = struct.pack("!II", 8, 80877103)
_POSTGRES_WILLING = b"S"


class StartTLS(StrEnum):
    """What an endpoint wants to hear before it speaks TLS."""

    POSTGRES = "postgres"


class ProbeFailed(Unavailable):
    """The endpoint showed no certificate.

    Attributes:
        cause: why; `Cause.NO_COMMON_PARAMETERS` also stands for a key that the TLS library of
            this Python does not know, such as ML-DSA before OpenSSL 3.5.
        reached: whether there was anybody at that address.
    """

    def __init__(
        self, message: str, *, cause: Cause, reached: bool = True, remedy: str | None = None
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.cause = cause
        self.reached = reached


class KeyAndChain(Protocol):
    """A certificate to show; `AgentIdentity` is one."""

    @property
    def chain(self) -> Sequence[x509.Certificate]: ...
    @property
    def private_key(self) -> PrivateKey: ...


async def served_chain(
    host: str,
    port: int,
    *,
    starttls: StartTLS | None = None,
    server_name: str | None = None,
    credentials: KeyAndChain | None = None,
    timeout_s: float = TIMEOUT_S,
) -> tuple[bytes, ...]:
    """Return the chain that an endpoint presents, DER, leaf first.

    Nothing but the possession of the leaf's key is verified: what is served is the question,
    not whether it is good.

    Args:
        host: name or address.
        port: TCP port.
        starttls: what to say before TLS, or None.
        server_name: for the server name indication, or None for none.
        credentials: shown when the endpoint asks; the handshake is completed then. Without
            them the connection is left as soon as the chain is known.
        timeout_s: for everything together, in seconds.

    Raises:
        ProbeFailed: it cannot be reached or shows no certificate, with the cause.
        TimedOut: it took longer than `timeout_s`.
    """
    where = f"{host}:{port}"
    try:
        async with asyncio.timeout(timeout_s), _connected(host, port) as (reader, writer):
            if starttls is StartTLS.POSTGRES:
                await _ask_postgres(reader, writer)
            return await _chain(reader, writer, server_name, credentials)
    except TimeoutError:
        raise TimedOut(f"{where} showed no certificate within {timeout_s:g} s") from None
    except ssl.SSLError as error:
        raise _tls_failure(where, error) from None
    except OSError as error:
        raise ProbeFailed(f"{where} broke off: {error}", cause=Cause.UNKNOWN) from None
    except ProbeFailed as error:
        message = f"{where} {error.message}"
        raise ProbeFailed(
            message, cause=error.cause, reached=error.reached, remedy=error.remedy
        ) from None
    except LegationError as error:
        message = f"{where} shows a certificate that cannot be read: {error.message}"
        raise ProbeFailed(message, cause=Cause.MALFORMED_CERTIFICATE) from None


@contextlib.asynccontextmanager
async def _connected(
    host: str, port: int
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    try:
        reader, writer = await asyncio.open_connection(host, port, limit=_READ_SIZE)
    except OSError as error:
        message = f"cannot be reached: {error}"
        raise ProbeFailed(message, cause=Cause.UNKNOWN, reached=False) from None
    try:
        yield reader, writer
    finally:
        writer.close()
        # The endpoint may have reset the connection; the answer is known by then.
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _ask_postgres(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_POSTGRES_SSL_REQUEST)
    answer = await reader.read(1)
    if answer != _POSTGRES_WILLING:
        raise ProbeFailed(
            "does not offer TLS to PostgreSQL clients",
            cause=Cause.PLAINTEXT,
            remedy="set ssl = on in postgresql.conf",
        )


async def _chain(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    server_name: str | None,
    credentials: KeyAndChain | None,
) -> tuple[bytes, ...]:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = _context(credentials)
    tls = context.wrap_bio(incoming, outgoing, server_hostname=server_name)
    received = 0
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            # Up to TLS 1.2 the chain is known before a handshake that may never complete.
            if credentials is None and (chain := _presented(tls)):
                return chain
            writer.write(outgoing.read())
        except ssl.SSLError:
            if chain := _presented(tls):
                return chain
            raise
        else:
            break
        data = await reader.read(_READ_SIZE)
        received += len(data)
        if received > MAX_BYTES:
            raise ProbeFailed("sends too much", cause=Cause.MALFORMED_CERTIFICATE)
        incoming.write(data) if data else incoming.write_eof()
    chain = _presented(tls)
    if not chain:
        raise ProbeFailed("shows no certificate", cause=Cause.NO_COMMON_PARAMETERS)
    if credentials is not None:
        writer.write(outgoing.read())
        await writer.drain()
    return chain


def _context(credentials: KeyAndChain | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if credentials is not None:
        use_identity(context, credentials.chain, credentials.private_key)
    return context


def _presented(tls: ssl.SSLObject) -> tuple[bytes, ...]:
    return tuple(each.public_bytes(Encoding.DER) for each in presented_chain(tls))


def _tls_failure(where: str, error: ssl.SSLError) -> ProbeFailed:
    reason = error.reason or str(error)
    words = reason.lower()
    if "wrong_version_number" in words or "http_request" in words:
        return ProbeFailed(f"{where} does not speak TLS", cause=Cause.PLAINTEXT)
    if "handshake_failure" in words or "no_shared" in words or "unsupported" in words:
        return ProbeFailed(
            f"{where} and {ssl.OPENSSL_VERSION} have no parameters in common ({reason})",
            cause=Cause.NO_COMMON_PARAMETERS,
            remedy="a certificate with an ML-DSA key is seen from OpenSSL 3.5 on only",
        )
    return ProbeFailed(f"{where}: the handshake fails: {reason}", cause=cause_of(reason))
