"""Finding certification paths: from a leaf, through what the peer sent, to an authority.

The search is bounded in depth, in signatures checked and in paths returned, so that no
collection of certificates, however malicious, costs more than a few milliseconds.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from legation.pki.parts import UNREADABLE

MAX_PATH_LENGTH: Final = 8
MAX_SIGNATURE_CHECKS: Final = 32
MAX_PATHS: Final = 8

Path: TypeAlias = tuple[x509.Certificate, ...]


@dataclass(slots=True)
class PathSearch:
    """What a search found.

    Attributes:
        paths: each from the leaf to an authority, both included.
        unsigned: certificates whose issuer was found by name and key identifier, and did
            not sign them.
        exhausted: whether a bound stopped the search.
    """

    paths: list[Path] = field(default_factory=list)
    unsigned: list[x509.Certificate] = field(default_factory=list)
    exhausted: bool = False
    checks: int = 0


def find_paths(
    leaf: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    authorities: Iterable[x509.Certificate],
) -> PathSearch:
    """Find the paths from `leaf` to `authorities`; only names and signatures are looked at.

    Authorities are tried before intermediates, so the shortest trusted path comes first.
    """
    anchors = tuple(dict.fromkeys(authorities))
    others = tuple(
        certificate
        for certificate in dict.fromkeys(intermediates)
        if certificate not in anchors and certificate != leaf
    )
    search = PathSearch()
    _extend(search, (leaf,), others, anchors)
    return search


def _extend(
    search: PathSearch,
    path: Path,
    others: Sequence[x509.Certificate],
    anchors: Sequence[x509.Certificate],
) -> None:
    if len(path) == MAX_PATH_LENGTH:
        search.exhausted = True
        return
    last = path[-1]
    for issuer in (*anchors, *others):
        if issuer in path or not _may_be_issuer(last, issuer):
            continue
        if search.checks == MAX_SIGNATURE_CHECKS or len(search.paths) == MAX_PATHS:
            search.exhausted = True
            return
        search.checks += 1
        if not is_signed_by(last, issuer):
            search.unsigned.append(last)
        elif issuer in anchors:
            search.paths.append((*path, issuer))
        else:
            _extend(search, (*path, issuer), others, anchors)


def is_signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Tell whether `issuer`'s key signed `certificate`, and its name is the issuer's."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, *UNREADABLE):
        return False
    return True


def _may_be_issuer(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Compare names, and key identifiers where both have one (RFC 5280, section 4.2.1.1)."""
    try:
        if certificate.issuer != issuer.subject:
            return False
        wanted = _authority_key_id(certificate)
        found = _subject_key_id(issuer)
    except UNREADABLE:
        return False
    return wanted is None or found is None or wanted == found


def _authority_key_id(certificate: x509.Certificate) -> bytes | None:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    except x509.ExtensionNotFound:
        return None
    return extension.value.key_identifier


def _subject_key_id(certificate: x509.Certificate) -> bytes | None:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return None
    return extension.value.digest
