"""Messages of the SPIFFE Workload API, read into values.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Workload_API.md, sections 4 and 5.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from cryptography import x509
from google.protobuf.message import DecodeError

from legation.errors import InvalidInput, NotFound
from legation.pki.bundle import TrustBundle
from legation.pki.encoding import (
    certificates_from_der,
    chain_matches_key,
    private_key_from_der,
)
from legation.pki.keys import PrivateKey
from legation.pki.parts import UNREADABLE, Parts, first_line
from legation.pki.spiffe_id import SpiffeID, TrustDomain
from legation.sdk.model import X509SVID
from legation.wire.protobuf import workload_pb2 as pb

SERVICE = "/SpiffeWorkloadAPI"
# Section 4 of SPIFFE_Workload_Endpoint.md: proof that nobody was tricked into relaying HTTP.
SECURITY_HEADER = ("workload.spiffe.io", "true")
_MAX_SVIDS = 1000
_MAX_BUNDLES = 10_000

_Part = TypeVar("_Part", X509SVID, TrustBundle)
_Response = TypeVar("_Response", pb.X509SVIDResponse, pb.X509BundlesResponse)
# Chooses among the identities that the Workload API gives.
Pick = Callable[[Sequence[X509SVID]], X509SVID]


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What one message says: everything, because a message replaces the one before it."""

    svids: tuple[X509SVID, ...] = ()
    bundles: Mapping[TrustDomain, TrustBundle]
    crls: tuple[bytes, ...] = ()


class Reader:
    """Reads one message after the other.

    What a message repeats of the one before, byte for byte, is not read again: most of them
    bring another revocation list and nothing else.
    """

    def __init__(self) -> None:
        self._before: dict[object, Any] = {}
        self._read: dict[object, Any] = {}

    def svids(self, data: bytes, pick: Pick) -> Update:
        """Read an X509SVIDResponse; the picked identity comes first.

        Raises:
            NotFound: none of the identities is the wanted one.
            InvalidInput: not such a message, a mandatory field is missing (section 4.5), or a
                chain, key or bundle is not what it says.
        """
        message = _parsed(pb.X509SVIDResponse, data)
        if not message.svids:
            raise InvalidInput("the Workload API sent a message without X.509-SVIDs")
        if len(message.svids) > _MAX_SVIDS:
            raise InvalidInput(f"the Workload API sent more than {_MAX_SVIDS} X.509-SVIDs")
        self._before, self._read = self._read, {}
        bundles = self._bundles(message.federated_bundles)
        svids = []
        for item in message.svids:
            svid = self._once(item.SerializeToString(deterministic=True), partial(_svid, item))
            svids.append(svid)
            trust_domain = svid.spiffe_id.trust_domain
            # The message's word for its own trust domain, never a federated claim to it.
            bundles[trust_domain] = self._bundle(trust_domain, item.bundle)
        chosen = pick(tuple(svids))
        rest = tuple(svid for svid in svids if svid is not chosen)
        return Update(svids=(chosen, *rest), bundles=bundles, crls=tuple(message.crl))

    def bundles(self, data: bytes) -> Update:
        """Read an X509BundlesResponse.

        Raises:
            InvalidInput: not such a message, or without bundles.
        """
        message = _parsed(pb.X509BundlesResponse, data)
        if not message.bundles:
            raise InvalidInput("the Workload API sent a message without trust bundles")
        self._before, self._read = self._read, {}
        return Update(bundles=self._bundles(message.bundles), crls=tuple(message.crl))

    def _once(self, key: object, read: Callable[[], _Part]) -> _Part:
        found: _Part | None = self._before.get(key)
        made = self._read[key] = read() if found is None else found
        return made

    def _bundle(self, trust_domain: TrustDomain, data: bytes) -> TrustBundle:
        return self._once((trust_domain, data), partial(_bundle, trust_domain, data))

    def _bundles(self, by_id: Mapping[str, bytes]) -> dict[TrustDomain, TrustBundle]:
        if len(by_id) > _MAX_BUNDLES:
            raise InvalidInput(f"the Workload API sent more than {_MAX_BUNDLES} trust bundles")
        bundles = {}
        for text, data in by_id.items():
            # The key is the SPIFFE ID of the trust domain; SPIRE writes it so, too.
            trust_domain = SpiffeID.parse(text).trust_domain if "://" in text else TrustDomain(text)
            bundles[trust_domain] = self._bundle(trust_domain, data)
        return bundles


def picker(*, spiffe_id: SpiffeID | str | None, hint: str | None, pick: Pick | None) -> Pick:
    """Make one way of choosing from the three that a caller may use.

    Raises:
        InvalidInput: more than one is used, or the SPIFFE ID is none.
    """
    if sum(one is not None for one in (spiffe_id, hint, pick)) > 1:
        raise InvalidInput("choose by SPIFFE ID, by hint or by your own function, not by several")
    if pick is not None:
        return pick
    if hint is not None:
        return _wanted(lambda svid: svid.hint == hint, f"with the hint {hint!a}")
    if spiffe_id is not None:
        wanted = spiffe_id if isinstance(spiffe_id, SpiffeID) else SpiffeID.parse(spiffe_id)
        return _wanted(lambda svid: svid.spiffe_id == wanted, str(wanted))
    return lambda svids: svids[0]  # section 5.3: the first is the default


def _wanted(matches: Callable[[X509SVID], bool], words: str) -> Pick:
    def pick(svids: Sequence[X509SVID]) -> X509SVID:
        found = next(filter(matches, svids), None)
        if found is None:
            names = ", ".join(str(svid.spiffe_id) for svid in svids[:8])
            raise NotFound(
                f"the Workload API gives this process no identity {words}",
                remedy=f"it gives {names}",
            )
        return found

    return pick


def _parsed(kind: type[_Response], data: bytes) -> _Response:
    try:
        return kind.FromString(data)
    except DecodeError:
        name = kind.DESCRIPTOR.name
        raise InvalidInput(f"the Workload API sent something else than an {name}") from None


def _svid(item: pb.X509SVID) -> X509SVID:
    spiffe_id = SpiffeID.parse(item.spiffe_id)
    chain = certificates_from_der(item.x509_svid)
    private_key = private_key_from_der(item.x509_svid_key)
    return made_svid(spiffe_id, chain, private_key, hint=item.hint)


def made_svid(
    spiffe_id: SpiffeID,
    chain: tuple[x509.Certificate, ...],
    private_key: PrivateKey,
    *,
    hint: str = "",
) -> X509SVID:
    """Make an identity of parts that fit together.

    Raises:
        InvalidInput: they do not, or a certificate cannot be read.
    """
    try:
        if not chain_matches_key(chain, private_key):
            raise InvalidInput(f"the key for {spiffe_id} is not that of its certificate")
        if identity_of(chain[0]) != spiffe_id:
            raise InvalidInput(f"the certificate for {spiffe_id} names somebody else")
        return X509SVID(spiffe_id=spiffe_id, chain=chain, private_key=private_key, hint=hint)
    except UNREADABLE as error:
        raise InvalidInput(f"the certificate cannot be read: {first_line(error)}") from None


def identity_of(leaf: x509.Certificate) -> SpiffeID:
    """Return the SPIFFE ID that a certificate names (X509-SVID, section 2).

    Raises:
        InvalidInput: it does not name exactly one.
    """
    try:
        uris = Parts(leaf).uris
    except UNREADABLE as error:
        raise InvalidInput(f"not a certificate that can be read: {first_line(error)}") from None
    if len(uris) != 1:
        raise InvalidInput(f"an X.509-SVID has one URI, this certificate {len(uris)}")
    return SpiffeID.parse(uris[0])


def _bundle(trust_domain: TrustDomain, data: bytes) -> TrustBundle:
    if not data:
        raise InvalidInput(f"the Workload API sent an empty trust bundle for {trust_domain}")
    return TrustBundle(trust_domain, certificates_from_der(data))
