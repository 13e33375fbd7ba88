"""Enrolment: evidence and a fresh key become the agent's first certificate.

1. The authority's certificate authorities are known beforehand: as a PEM file, or by the
   SHA-256 fingerprint of the root, in which case they are fetched first, unverified, and
   only what matches the fingerprint is kept.
2. TLS is verified against them, and the server must be the authority of that trust domain
   by its SPIFFE ID; its host name proves nothing, since any workload may have one.
3. Only then does the evidence leave.
4. What comes back is proved like every other certificate.
"""

import asyncio
import base64
import contextlib
import hashlib
import http.client
import json
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from legation.agent.evidence import Evidence, Occasion
from legation.agent.identities.proof import prove
from legation.agent.identity import (
    AUTHORITY_PATH,
    AgentIdentity,
    Membership,
    feed_keys_from,
    spiffe_id_of,
)
from legation.agent.tls import client_context, presented_chain
from legation.agent.upstream.problems import error_of
from legation.clock import Clock
from legation.errors import (
    InvalidInput,
    NotAuthenticated,
    TimedOut,
    Unavailable,
)
from legation.pki import (
    PrivateKey,
    Purpose,
    SpiffeID,
    TrustBundle,
    TrustDomain,
    build_request,
    certificates_from_pem,
    generate_key,
    verify_svid,
)
from legation.pki.pem import encode
from legation.wire.canonical import parse_json

_TIMEOUT_S = 20.0
_MAX_ANSWER = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentRequest:
    """What an operator gives a new agent.

    Attributes:
        authority: ``host`` or ``host:port`` of the authority's API, or its https URL.
        evidence: what lets the agent in, for example a join token.
        authorities: certificate authorities to trust, or empty.
        fingerprint: SHA-256 of the root certificate in hexadecimal, or None. One of the two
            must be given.
    """

    authority: str
    evidence: Evidence
    authorities: tuple[x509.Certificate, ...] = ()
    fingerprint: str | None = None


async def enrol(request: EnrolmentRequest, *, clock: Clock) -> tuple[AgentIdentity, Membership]:
    """Enrol an agent.

    Raises:
        InvalidInput: the request, or the authority's answer, is not acceptable.
        VerificationError: the server is not the authority, or its certificate does not serve.
        Unavailable: the authority cannot be reached.
        LegationError: the authority's own refusal, for example NotAuthenticated.
    """
    return await asyncio.to_thread(_Enrolment(request, clock).run)


class _Enrolment:
    """One enrolment. Blocking; runs in a thread."""

    def __init__(self, request: EnrolmentRequest, clock: Clock) -> None:
        self._request = request
        self._clock = clock
        self._host, self._port = _address(request.authority)

    def run(self) -> tuple[AgentIdentity, Membership]:
        try:
            authorities = self._request.authorities or self._pinned_authorities()  # step 1
            key = generate_key()
            answer, authority = self._ask(authorities, build_request(key))  # steps 2 and 3
            return self._accept(answer, key, authority, authorities)
        except TimeoutError:
            raise TimedOut(f"{self._host} did not answer in time") from None
        except ssl.SSLCertVerificationError as error:
            raise NotAuthenticated(
                f"the certificate of {self._host} is refused: {error.verify_message}",
                remedy="check the trust bundle or fingerprint, and the address",
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"{self._host}:{self._port} cannot be reached: {error}") from None

    def _pinned_authorities(self) -> tuple[x509.Certificate, ...]:
        expected = (self._request.fingerprint or "").replace(":", "").lower()
        if len(expected) != 64:
            raise InvalidInput(
                "enrolment needs a trust bundle, or the SHA-256 fingerprint of the root",
                remedy="`legation bundle show` prints it on the authority",
            )
        anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        anyone.minimum_version = ssl.TLSVersion.TLSv1_3
        anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
        with _Connection(self._host, self._port, anyone) as connection:
            document = connection.ask("GET", "/v1/bundle")
        # The trust domain's name is not known yet, and is of no use here.
        bundle = TrustBundle.from_document("unknown", document)
        for certificate in bundle.x509_authorities:
            if hashlib.sha256(_der(certificate)).hexdigest() == expected:
                return (certificate,)
        raise NotAuthenticated(
            f"{self._host} has no root certificate with the expected fingerprint",
            remedy="check the fingerprint and the address; do not go on if both are right",
        )

    def _ask(
        self, authorities: Sequence[x509.Certificate], csr: bytes
    ) -> tuple[Mapping[str, Any], SpiffeID]:
        with self._verified(authorities) as (_, authority):
            pass
        evidence = self._request.evidence
        # To get it may take long, and no connection waits for it.
        document = evidence.document(
            Occasion(
                trust_domain=authority.trust_domain.name,
                csr=csr,
                challenge=lambda: self._challenge(authorities),
            )
        )
        body = {
            "evidence": {"kind": evidence.kind, **document},
            "csr": encode("CERTIFICATE REQUEST", csr).decode(),
        }
        with self._verified(authorities) as (connection, authority):
            return connection.ask("POST", "/v1/enrol", json.dumps(body).encode()), authority

    def _challenge(self, authorities: Sequence[x509.Certificate]) -> bytes:
        with self._verified(authorities) as (connection, _):
            answer = connection.ask("POST", "/v1/enrol/challenge")
        try:
            return base64.b64decode(answer["nonce"], validate=True)
        except (KeyError, TypeError, ValueError):
            raise InvalidInput("the authority's answer is not a challenge") from None

    @contextlib.contextmanager
    def _verified(
        self, authorities: Sequence[x509.Certificate]
    ) -> Iterator[tuple["_Connection", SpiffeID]]:
        """Open a connection to what has proved to be the authority; say who that is."""
        with _Connection(self._host, self._port, client_context(authorities)) as connection:
            yield connection, self._check_server(connection.chain(), authorities)

    def _check_server(
        self, chain: Sequence[x509.Certificate], authorities: Sequence[x509.Certificate]
    ) -> SpiffeID:
        server = spiffe_id_of(chain[0])
        expected = SpiffeID(server.trust_domain, AUTHORITY_PATH)
        verify_svid(
            chain,
            bundle=TrustBundle(server.trust_domain, tuple(authorities)),
            at=self._clock.now(),
            purpose=Purpose.SERVER,
            expected=expected,
        )
        return expected

    def _accept(
        self,
        answer: Mapping[str, Any],
        key: PrivateKey,
        authority: SpiffeID,
        authorities: Sequence[x509.Certificate],
    ) -> tuple[AgentIdentity, Membership]:
        match answer:
            case {
                "chain_pem": str(pem),
                "bundle": dict(document),
                "trust_domain": str(name),
                "feed_keys": list(feed_keys),
            }:
                pass
            case _:
                raise InvalidInput("the authority's answer is not an enrolment")
        trust_domain = TrustDomain.parse(name)
        bundle = TrustBundle.from_document(trust_domain.name, document)
        if trust_domain != authority.trust_domain:
            raise InvalidInput(f"{authority} enrols into another trust domain, {trust_domain}")
        if not set(authorities) & set(bundle.x509_authorities):
            raise InvalidInput("the authority's trust bundle has nothing of the one we trust")
        chain = certificates_from_pem(pem)
        prove(  # step 4
            [_der(certificate) for certificate in chain],
            key,
            expected=spiffe_id_of(chain[0]),
            bundle=bundle,
            at=self._clock.now(),
        )
        membership = Membership(
            trust_domain=trust_domain,
            bundle=bundle,
            feed_keys=feed_keys_from(feed_keys),
            authority=self._host,
            api_port=self._port,
        )
        return AgentIdentity.of(chain, key), membership


class _Connection:
    """One HTTPS connection to the authority."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext) -> None:
        self._connection = http.client.HTTPSConnection(
            host, port, timeout=_TIMEOUT_S, context=context
        )

    def __enter__(self) -> "_Connection":
        self._connection.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def chain(self) -> tuple[x509.Certificate, ...]:
        """Return what the server presented, leaf first."""
        tls: Any = self._connection.sock
        return presented_chain(tls)

    def ask(self, method: str, path: str, body: bytes | None = None) -> Mapping[str, Any]:
        """Send a request, return the JSON object of the answer, or raise its problem."""
        headers = {"content-type": "application/json"} if body is not None else {}
        self._connection.request(method, path, body=body, headers=headers)
        response = self._connection.getresponse()
        content = response.read(_MAX_ANSWER + 1)
        if response.status >= 400:
            raise error_of(response.status, content)
        document = parse_json(content, limit=_MAX_ANSWER)
        if not isinstance(document, dict):
            raise InvalidInput("the authority's answer is not a JSON object")
        return document


def _address(authority: str) -> tuple[str, int]:
    text = authority if "//" in authority else f"https://{authority}"
    try:
        url = urlsplit(text)
        port = url.port or 443
    except ValueError:
        raise InvalidInput(f"{authority!a} is not an address") from None
    if url.scheme != "https" or not url.hostname:
        raise InvalidInput(f"{authority!a} is not the address of an authority")
    return url.hostname, port


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)
