"""Name constraints (RFC 5280, section 4.2.1.10): which names an issuer may certify.

`cryptography`'s own verifier refuses every URI below an issuer with a URI constraint, so
a trust domain could not be held to its issuer with it. Here all forms in use count: URI,
DNS, IP address, e-mail and directory name. A name of any other form is refused as soon
as a constraint speaks of that form.
"""

from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.x509.oid import NameOID

from legation.pki.parts import Parts

MAX_COMPARISONS: Final = 1 << 16


_TypedName: TypeAlias = tuple[type, Any]


def violations(constraints: x509.NameConstraints, parts: Parts) -> list[str]:
    """Return one line for every name in a certificate that `constraints` do not allow."""
    names = _names_of(parts)
    permitted = list(constraints.permitted_subtrees or ())
    excluded = list(constraints.excluded_subtrees or ())
    if len(names) * (len(permitted) + len(excluded)) > MAX_COMPARISONS:
        return ["there are too many names and constraints to compare"]
    problems = (_problem(name, permitted, excluded) for name in names)
    return [problem for problem in problems if problem is not None]


def _problem(
    name: _TypedName, permitted: list[x509.GeneralName], excluded: list[x509.GeneralName]
) -> str | None:
    kind, value = name
    allowing = [base.value for base in permitted if type(base) is kind]
    refusing = [base.value for base in excluded if type(base) is kind]
    if not allowing and not refusing:
        return None
    shown = ascii(str(value)[:80])
    within = _WITHIN.get(kind)
    if within is None:
        return f"a constraint on names like {shown} cannot be applied"
    if any(within(value, base, True) for base in refusing):
        return f"{shown} is excluded"
    if allowing and not any(within(value, base, False) for base in allowing):
        return f"{shown} is not among what is permitted"
    return None


def _names_of(parts: Parts) -> list[_TypedName]:
    """Return all names, those of the subject too (RFC 5280, section 4.2.1.10)."""
    names: list[_TypedName] = [(type(name), name.value) for name in parts.names]
    if parts.subject.rdns:
        names.append((x509.DirectoryName, parts.subject))
    if not any(kind is x509.RFC822Name for kind, _ in names):
        # Mailboxes of old certificates, which have no alternative name.
        names.extend(
            (x509.RFC822Name, str(attribute.value))
            for attribute in parts.subject.get_attributes_for_oid(NameOID.EMAIL_ADDRESS)
        )
    return names


def _dns_within(name: str, base: str, excluding: bool) -> bool:
    """Compare host names: a base means itself and everything below it."""
    name, base = name.lower().rstrip("."), base.lower().rstrip(".")
    if not base or name == base or name.endswith("." + base.removeprefix(".")):
        return True
    # A wildcard stands for hosts that an exclusion may mean.
    return excluding and name.startswith("*.") and base.endswith(name[1:])


def _host_within(host: str, base: str) -> bool:
    """Compare hosts of URIs and mailboxes: a leading dot means everything below, else itself."""
    host, base = host.lower(), base.lower()
    return host.endswith(base) if base.startswith(".") else host == base


def _uri_within(uri: str, base: str, excluding: bool) -> bool:
    try:
        host = urlsplit(uri).hostname
    except ValueError:
        host = None
    # "MUST reject" when there is no host name to compare: excluded from what is excluded,
    # and not within what is permitted.
    if not host or host.replace(".", "").isdigit() or ":" in host:
        return excluding
    return _host_within(host, base)


def _mailbox_within(mailbox: str, base: str, excluding: bool) -> bool:
    local, at, host = mailbox.rpartition("@")
    if not at:
        return excluding
    base_local, base_at, base_host = base.rpartition("@")
    if base_at:
        return local == base_local and host.lower() == base_host.lower()
    return _host_within(host, base)


def _address_within(address: Any, base: Any, excluding: bool) -> bool:
    del excluding
    return isinstance(base, IPv4Network | IPv6Network) and (
        address.version == base.version and address in base
    )


def _directory_within(name: x509.Name, base: x509.Name, excluding: bool) -> bool:
    del excluding
    wanted = [_folded(rdn) for rdn in base.rdns]
    return [_folded(rdn) for rdn in name.rdns][: len(wanted)] == wanted


def _folded(rdn: x509.RelativeDistinguishedName) -> frozenset[tuple[str, str]]:
    """Fold case and spaces, as RFC 5280, section 7.1, wants names compared."""
    return frozenset(
        (attribute.oid.dotted_string, " ".join(str(attribute.value).lower().split()))
        for attribute in rdn
    )


_WITHIN: Final[dict[type, Callable[[Any, Any, bool], bool]]] = {
    x509.UniformResourceIdentifier: _uri_within,
    x509.DNSName: _dns_within,
    x509.IPAddress: _address_within,
    x509.RFC822Name: _mailbox_within,
    x509.DirectoryName: _directory_within,
}
