"""Verification: may this chain be believed, for this use, by whom, at this moment?

The procedure is RFC 5280, section 6.1, for the chain, X509-SVID, section 5, for SPIFFE
identities, and RFC 9525, section 6, for host names. `cryptography`'s own verifier knows
no revocation lists and refuses URI names below URI constraints, so the steps are here,
numbered, and every check that fails is reported, not only the first.

 1. The chain is short enough, and every certificate in it can be read.
 2. The leaf is a leaf, and of the identity that is expected.
 3. Its trust domain is known; only that domain's authorities count.
 4. A path of valid signatures leads to one of them.
 5. Every certificate on the path is inside its validity, of an accepted algorithm and
    without a critical extension that we do not process.
 6. Every issuer on the path is a CA that may sign certificates, with room in its path length.
 7. The usage is allowed by the leaf and by every issuer that restricts it.
 8. Every name is inside the name constraints of every issuer above it.
 9. No certificate on the path is revoked, as far as lists were given.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address

from cryptography import x509

from legation.causes import Cause, Failure
from legation.errors import InvalidInput, VerificationError
from legation.pki.bundle import TrustBundle
from legation.pki.crl import RevocationList
from legation.pki.parts import UNREADABLE, Parts, first_line
from legation.pki.spiffe_id import SpiffeID, TrustDomain
from legation.pki.verification.checks import (
    LEAF,
    Conditions,
    Purpose,
    certificate_failures,
    failure,
    path_failures,
    usage_failures,
)
from legation.pki.verification.path import MAX_PATH_LENGTH, Path, PathSearch, find_paths
from legation.pki.verification.revocation import CRLScope


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedCertificate:
    """A certificate that passed.

    Attributes:
        certificate: the leaf.
        path: from the leaf to the authority, both included.
        not_after: when the first certificate on the path ends.
    """

    certificate: x509.Certificate
    path: Path
    not_after: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedSVID(VerifiedCertificate):
    """An X.509-SVID that passed, and whose it is."""

    spiffe_id: SpiffeID


def verify_svid(
    chain: Sequence[x509.Certificate],
    *,
    bundle: TrustBundle | Mapping[TrustDomain, TrustBundle],
    at: datetime,
    purpose: Purpose,
    expected: SpiffeID | None = None,
    crls: Sequence[RevocationList] = (),
    crl_scope: CRLScope = CRLScope.CHAIN,
) -> VerifiedSVID:
    """Verify an X.509-SVID.

    Args:
        chain: the leaf, then its intermediates in any order.
        bundle: the trust bundle of the one accepted trust domain, or those of several.
        at: the moment to verify for, with a time zone.
        purpose: what the peer uses the certificate for.
        expected: the only identity that is accepted, or None for any of a known domain.
        crls: revocation lists. With none, revocation is not checked here; with any, every
            certificate in `crl_scope` must be covered by a current one.
        crl_scope: which certificates must be covered.

    Raises:
        VerificationError: with every check that failed, those of the most promising path.
    """
    leaf, failures = _read_leaf(chain)  # step 1
    spiffe_id, problems = _svid_identity(leaf, expected)  # step 2
    failures += problems
    failures += _svid_leaf_failures(leaf)
    authorities, problems = _authorities_for(spiffe_id, bundle)  # step 3
    failures += problems
    path, problems = _best_path(  # steps 4 to 9
        leaf,
        chain,
        authorities,
        Conditions(at=at, purpose=purpose, crls=tuple(crls), crl_scope=crl_scope, svid=True),
    )
    failures += problems
    if failures or spiffe_id is None:
        raise VerificationError(failures)
    return VerifiedSVID(
        certificate=chain[0], path=path, not_after=_first_end(path), spiffe_id=spiffe_id
    )


def verify_certificate(
    chain: Sequence[x509.Certificate],
    *,
    authorities: Iterable[x509.Certificate],
    at: datetime,
    purpose: Purpose,
    dns_name: str | None = None,
    ip_address: IPv4Address | IPv6Address | None = None,
    crls: Sequence[RevocationList] = (),
    crl_scope: CRLScope = CRLScope.CHAIN,
) -> VerifiedCertificate:
    """Verify an ordinary server or client certificate.

    Args:
        chain: the leaf, then its intermediates in any order.
        authorities: the trusted CA certificates.
        at: the moment to verify for, with a time zone.
        purpose: what the peer uses the certificate for.
        dns_name: the host name that was dialled, or None not to check it.
        ip_address: the address that was dialled, or None not to check it.
        crls: revocation lists, as for `verify_svid`.
        crl_scope: which certificates must be covered.

    Raises:
        VerificationError: with every check that failed, those of the most promising path.
    """
    leaf, failures = _read_leaf(chain)  # step 1
    if leaf.ca:  # step 2
        failures.append(failure(Cause.WRONG_USAGE, "a CA certificate serves as a leaf", LEAF))
    if dns_name is not None and not any(_host_matches(name, dns_name) for name in leaf.dns_names):
        failures.append(failure(Cause.WRONG_IDENTITY, f"it is not for {dns_name!a}", LEAF))
    if ip_address is not None and x509.IPAddress(ip_address) not in leaf.names:
        failures.append(failure(Cause.WRONG_IDENTITY, f"it is not for {ip_address}", LEAF))
    path, problems = _best_path(  # steps 4 to 9
        leaf,
        chain,
        tuple(authorities),
        Conditions(at=at, purpose=purpose, crls=tuple(crls), crl_scope=crl_scope, svid=False),
    )
    failures += problems
    if failures:
        raise VerificationError(failures)
    return VerifiedCertificate(certificate=chain[0], path=path, not_after=_first_end(path))


# --- steps 1 to 3: the leaf and who may vouch for it --------------------------------------


def _read_leaf(chain: Sequence[x509.Certificate]) -> tuple[Parts, list[Failure]]:
    if not chain:
        raise VerificationError([failure(Cause.NO_CLIENT_CERTIFICATE, "the chain is empty", LEAF)])
    if len(chain) > MAX_PATH_LENGTH:
        raise VerificationError(
            [
                failure(
                    Cause.CHAIN_TOO_LONG,
                    f"the peer sent {len(chain)} certificates, at most {MAX_PATH_LENGTH} are read",
                )
            ]
        )
    try:
        return Parts(chain[0]), []
    except UNREADABLE as error:
        raise VerificationError(
            [failure(Cause.MALFORMED_CERTIFICATE, first_line(error), LEAF)]
        ) from None


def _svid_identity(leaf: Parts, expected: SpiffeID | None) -> tuple[SpiffeID | None, list[Failure]]:
    """X509-SVID, sections 2 and 5.2: exactly one URI, a SPIFFE ID with a path."""
    if len(leaf.uris) != 1:
        detail = f"an SVID has one URI, this one {len(leaf.uris)}"
        return None, [failure(Cause.MALFORMED_CERTIFICATE, detail, LEAF)]
    try:
        spiffe_id = SpiffeID.parse(leaf.uris[0])
    except InvalidInput as error:
        return None, [failure(Cause.MALFORMED_CERTIFICATE, error.message, LEAF)]
    failures = []
    if not spiffe_id.path:
        failures.append(
            failure(Cause.MALFORMED_CERTIFICATE, "the SPIFFE ID of a leaf has no path", LEAF)
        )
    if expected is not None and spiffe_id != expected:
        failures.append(
            failure(Cause.WRONG_IDENTITY, f"it is {spiffe_id}, expected {expected}", LEAF)
        )
    return spiffe_id, failures


def _svid_leaf_failures(leaf: Parts) -> list[Failure]:
    """X509-SVID, sections 4.1, 4.3 and 5.2."""
    failures = []
    if leaf.ca:
        failures.append(failure(Cause.WRONG_USAGE, "a CA certificate serves as a leaf", LEAF))
    usage = leaf.value(x509.KeyUsage)
    if usage is None:
        failures.append(failure(Cause.WRONG_USAGE, "an SVID has a key usage, not this", LEAF))
    elif usage.key_cert_sign or usage.crl_sign:
        failures.append(
            failure(Cause.WRONG_USAGE, "the key usage of a leaf has keyCertSign or cRLSign", "leaf")
        )
    return failures


def _authorities_for(
    spiffe_id: SpiffeID | None, bundle: TrustBundle | Mapping[TrustDomain, TrustBundle]
) -> tuple[tuple[x509.Certificate, ...] | None, list[Failure]]:
    """Choose the authorities of the leaf's own trust domain, and of no other."""
    if spiffe_id is None:
        return None, []
    bundles = {bundle.trust_domain: bundle} if isinstance(bundle, TrustBundle) else bundle
    found = bundles.get(spiffe_id.trust_domain)
    if found is None or found.trust_domain != spiffe_id.trust_domain:
        detail = f"there is no trust bundle for {spiffe_id.trust_domain}"
        return None, [failure(Cause.WRONG_TRUST_DOMAIN, detail, LEAF)]
    return found.x509_authorities, []


# --- step 4: paths -------------------------------------------------------------------------


def _best_path(
    leaf: Parts,
    chain: Sequence[x509.Certificate],
    authorities: Sequence[x509.Certificate] | None,
    conditions: Conditions,
) -> tuple[Path, list[Failure]]:
    """Return a path without failures, else the failures of the path that has the fewest."""
    if authorities is None:
        return (), _leaf_failures(leaf, conditions)
    search = find_paths(chain[0], chain[1:], authorities)
    best: tuple[Path, list[Failure]] | None = None
    for path in search.paths:
        failures = path_failures(path, conditions)
        if not failures:
            return path, []
        if best is None or len(failures) < len(best[1]):
            best = path, failures
    return best or ((), [_why_no_path(search, chain), *_leaf_failures(leaf, conditions)])


def _leaf_failures(leaf: Parts, conditions: Conditions) -> list[Failure]:
    """Return what is wrong with the leaf by itself: worth knowing where there is no path."""
    return [
        *certificate_failures(leaf, LEAF, conditions.at),
        *usage_failures([leaf], conditions.purpose),
    ]


def _why_no_path(search: PathSearch, chain: Sequence[x509.Certificate]) -> Failure:
    if search.unsigned:
        return failure(
            Cause.BAD_SIGNATURE,
            "its issuer's name is right, and the issuer's key did not sign it",
            _position(search.unsigned[0], chain),
        )
    if search.exhausted:
        return failure(Cause.CHAIN_TOO_LONG, "no authority is near enough to the leaf")
    return failure(Cause.UNKNOWN_AUTHORITY, "no trusted authority signed this chain")


def _host_matches(pattern: str, host: str) -> bool:
    """RFC 9525, section 6.3: a wildcard is the whole leftmost label and stands for one."""
    pattern, host = pattern.lower().rstrip("."), host.lower().rstrip(".")
    if not pattern.startswith("*."):
        return pattern == host
    _, dot, rest = host.partition(".")
    return bool(dot) and pattern[2:] == rest


def _position(certificate: x509.Certificate, chain: Sequence[x509.Certificate]) -> str:
    position = list(chain).index(certificate)
    return f"issuer {position}" if position else LEAF


def _first_end(path: Path) -> datetime:
    return min(certificate.not_valid_after_utc for certificate in path)
