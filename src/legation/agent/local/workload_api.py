"""The SPIFFE Workload API: X.509-SVIDs, JWT-SVIDs and trust bundles.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Workload_API.md
"""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.message import Message
from grpclib.const import Cardinality, Handler
from grpclib.server import Stream

from legation.agent.identities.jwt_svids import JWTSVIDs
from legation.agent.local.server import attest_peer
from legation.agent.model import AttestedCaller, Attestor, Identities, WorkloadIdentity
from legation.errors import (
    InvalidInput,
    LimitExceeded,
    NotPermitted,
    Unavailable,
    VerificationError,
)
from legation.pki import TrustBundle, certificates_to_der
from legation.pki.jwt_svid import check_audience
from legation.wire.protobuf import workload_pb2 as pb

SERVICE = "/SpiffeWorkloadAPI"
MAX_STREAMS_PER_USER = 512
# How long a caller whose identity is being issued, or whose entry may not have been heard
# of yet, waits for it before it is told to come again.
PENDING_S = 5.0
# gRPC clients refuse messages above 4 MiB; the lists share one with the certificates.
MAX_CRL_BYTES = 2 << 20

# Section 4: a caller that was tricked into relaying someone's HTTP does not send this.
_SECURITY_HEADER = "workload.spiffe.io"

# Ours: asks for tokens that are bound to the caller's current certificate (RFC 8705).
CERTIFICATE_BOUND = "legation-certificate-bound"

_Request = TypeVar("_Request", bound=Message)


@dataclass(frozen=True, slots=True)
class _Contents:
    """All that an answer to one caller is made from, at one moment."""

    identities: tuple[WorkloadIdentity, ...]
    bundles: Mapping[str, TrustBundle]
    lists: tuple[bytes, ...]


_Make = Callable[[_Contents], Message]


class WorkloadAPI:
    """Serves SVIDs and trust bundles to the workloads they belong to."""

    def __init__(self, identities: Identities, tokens: JWTSVIDs, attestor: Attestor) -> None:
        self._identities = identities
        self._tokens = tokens
        self._attestor = attestor
        self._streams: Counter[int] = Counter()
        self._encoded: tuple[Mapping[str, TrustBundle], Mapping[str, bytes]] = ({}, {})

    def __mapping__(self) -> Mapping[str, Handler]:
        streaming, unary = Cardinality.UNARY_STREAM, Cardinality.UNARY_UNARY
        return {
            f"{SERVICE}/FetchX509SVID": Handler(
                self.fetch_x509_svid, streaming, pb.X509SVIDRequest, pb.X509SVIDResponse
            ),
            f"{SERVICE}/FetchX509Bundles": Handler(
                self.fetch_x509_bundles, streaming, pb.X509BundlesRequest, pb.X509BundlesResponse
            ),
            f"{SERVICE}/FetchJWTBundles": Handler(
                self.fetch_jwt_bundles, streaming, pb.JWTBundlesRequest, pb.JWTBundlesResponse
            ),
            f"{SERVICE}/FetchJWTSVID": Handler(
                self.fetch_jwt_svid, unary, pb.JWTSVIDRequest, pb.JWTSVIDResponse
            ),
            f"{SERVICE}/ValidateJWTSVID": Handler(
                self.validate_jwt_svid,
                unary,
                pb.ValidateJWTSVIDRequest,
                pb.ValidateJWTSVIDResponse,
            ),
        }

    async def fetch_x509_svid(
        self, stream: Stream[pb.X509SVIDRequest, pb.X509SVIDResponse]
    ) -> None:
        """Send the caller's SVIDs, and again whenever anything in the answer changes."""
        await self._follow(stream, self._svids)

    async def fetch_x509_bundles(
        self, stream: Stream[pb.X509BundlesRequest, pb.X509BundlesResponse]
    ) -> None:
        """Send the X.509 trust bundles, and again at each change."""
        await self._follow(stream, self._x509_bundles)

    async def fetch_jwt_bundles(
        self, stream: Stream[pb.JWTBundlesRequest, pb.JWTBundlesResponse]
    ) -> None:
        """Send the JWT trust bundles, and again at each change."""
        await self._follow(stream, self._jwt_bundles)

    async def fetch_jwt_svid(self, stream: Stream[pb.JWTSVIDRequest, pb.JWTSVIDResponse]) -> None:
        """Send a JWT-SVID for each of the caller's identities, or for the one it asks for."""
        request = await _request(stream)
        caller = await attest_peer(stream, self._attestor)
        audience = check_audience(request.audience)
        with self._counted(caller.uid):
            await self._until_ready(caller)
            wanted = [
                identity
                for identity in self._identities.identities_for(caller)
                if request.spiffe_id in {"", identity.spiffe_id}
            ]
            if not wanted:
                raise _no_identity()
            bound = _says(stream, CERTIFICATE_BOUND)
            fetched = [
                pb.JWTSVID(
                    spiffe_id=identity.spiffe_id,
                    svid=await self._tokens.fetch(identity, audience, bound=bound),
                )
                for identity in wanted
            ]
        await stream.send_message(pb.JWTSVIDResponse(svids=fetched))

    async def validate_jwt_svid(
        self, stream: Stream[pb.ValidateJWTSVIDRequest, pb.ValidateJWTSVIDResponse]
    ) -> None:
        """Check a token of this trust domain, or of a federated one, for the caller."""
        request = await _request(stream)
        await attest_peer(stream, self._attestor)
        try:
            found = self._tokens.validate(request.svid, audience=request.audience)
        except VerificationError as error:
            # Clients tell a token that does not hold by INVALID_ARGUMENT.
            raise InvalidInput(error.message, remedy=error.remedy) from None
        answer = pb.ValidateJWTSVIDResponse(spiffe_id=str(found.spiffe_id))
        answer.claims.update(found.claims)
        await stream.send_message(answer)

    async def _follow(self, stream: Stream[Any, Any], make: _Make) -> None:
        await _request(stream)
        caller = await attest_peer(stream, self._attestor)
        with self._counted(caller.uid):
            await self._until_ready(caller)
            sent: bytes | None = None
            contents: _Contents | None = None
            async for _ in self._identities.watch():
                before, contents = contents, self._contents(caller)
                # Most changes concern none of this, and nothing has to be encoded to see that.
                if contents == before or _encoded(make(contents)) == sent:
                    continue
                if sent is not None:
                    # The process behind an old connection may be another program by now.
                    caller = await attest_peer(stream, self._attestor)
                    contents = self._contents(caller)
                message = make(contents)
                await stream.send_message(message)
                sent = _encoded(message)

    async def _until_ready(self, caller: AttestedCaller) -> None:
        """Wait while the caller has no identity but one may be on its way.

        Raises:
            Unavailable: it has not come within `PENDING_S`.
        """
        try:
            async with asyncio.timeout(PENDING_S):
                async for _ in self._identities.watch():
                    if self._identities.identities_for(caller) or not self._may_come(caller):
                        return
        except TimeoutError:
            raise Unavailable(
                "this process's identity has not been issued yet",
                remedy="try again; `legation status` on the node says what it waits for",
            ) from None

    def _may_come(self, caller: AttestedCaller) -> bool:
        """Tell whether an identity for the caller may be on its way."""
        state = self._identities.state
        return state.revision == 0 or any(
            caller.selectors.issuperset(entry.selectors) and entry.spiffe_id not in state.bans
            for entry in state.entries_of(self._identities.agent_id)
        )

    @contextlib.contextmanager
    def _counted(self, uid: int) -> Iterator[None]:
        if self._streams[uid] >= MAX_STREAMS_PER_USER:
            raise LimitExceeded(f"uid {uid} has {MAX_STREAMS_PER_USER} streams open already")
        self._streams[uid] += 1
        try:
            yield
        finally:
            self._streams[uid] -= 1
            if not self._streams[uid]:
                del self._streams[uid]

    def _contents(self, caller: AttestedCaller) -> _Contents:
        identities = tuple(self._identities.identities_for(caller))
        if not identities:
            raise _no_identity()
        return _Contents(identities, dict(self._identities.state.bundles), self._lists())

    def _svids(self, contents: _Contents) -> pb.X509SVIDResponse:
        home = self._identities.agent_id.trust_domain.name
        bundles = self._authorities(contents.bundles)
        return pb.X509SVIDResponse(
            svids=[_svid(identity, bundles.get(home, b"")) for identity in contents.identities],
            crl=contents.lists,
            federated_bundles={
                f"spiffe://{name}": der for name, der in bundles.items() if name != home
            },
        )

    def _x509_bundles(self, contents: _Contents) -> pb.X509BundlesResponse:
        bundles = self._authorities(contents.bundles)
        return pb.X509BundlesResponse(
            crl=contents.lists,
            bundles={f"spiffe://{name}": der for name, der in bundles.items()},
        )

    @staticmethod
    def _jwt_bundles(contents: _Contents) -> pb.JWTBundlesResponse:
        return pb.JWTBundlesResponse(
            bundles={
                f"spiffe://{name}": _jwt_keys(bundle) for name, bundle in contents.bundles.items()
            }
        )

    def _authorities(self, bundles: Mapping[str, TrustBundle]) -> Mapping[str, bytes]:
        """Return the authorities by trust domain, DER; encoded once for everyone."""
        if self._encoded[0] != bundles:
            ders = {name: certificates_to_der(b.x509_authorities) for name, b in bundles.items()}
            self._encoded = bundles, ders
        return self._encoded[1]

    def _lists(self) -> tuple[bytes, ...]:
        """Return the current CRLs, or none when they are too large for a message together."""
        crls = self._identities.state.crls
        lists = tuple(der for key in sorted(crls) if (der := crls[key].der) is not None)
        return lists if sum(map(len, lists)) <= MAX_CRL_BYTES else ()


def _encoded(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


def _no_identity() -> NotPermitted:
    return NotPermitted(
        "no identity is issued to this process",
        remedy="compare its selectors with the entries: `legation entry list`",
    )


async def _request(stream: Stream[_Request, Any]) -> _Request:
    """Return the request of a call.

    Raises:
        InvalidInput: there is none, or the security header is missing.
    """
    if not _says(stream, _SECURITY_HEADER):
        raise InvalidInput(
            "the security header is missing", remedy=f"send the metadata {_SECURITY_HEADER}: true"
        )
    request = await stream.recv_message()
    if request is None:
        raise InvalidInput("a call without a request")
    return request


def _says(stream: Stream[Any, Any], name: str) -> bool:
    return stream.metadata is not None and stream.metadata.getall(name, []) == ["true"]


def _svid(identity: WorkloadIdentity, bundle: bytes) -> pb.X509SVID:
    return pb.X509SVID(
        spiffe_id=identity.spiffe_id,
        x509_svid=b"".join(identity.chain),
        x509_svid_key=identity.private_key,
        bundle=bundle,
    )


def _jwt_keys(bundle: TrustBundle) -> bytes:
    keys = [key for key in bundle.to_document()["keys"] if key.get("use") == "jwt-svid"]
    return json.dumps({"keys": keys}).encode()
