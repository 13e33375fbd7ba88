"""Rules about a certificate and the profile it was made from."""

from cryptography import x509

from legation.pki.lint.registry import profile_rule
from legation.pki.parts import Parts
from legation.pki.profiles import Presence, Profile


@profile_rule("profile_ca", "Legation profile")
def _profile_ca(parts: Parts, profile: Profile) -> str | None:
    if parts.ca == profile.ca and parts.has(x509.BasicConstraints):
        return None
    return f"its basic constraints are not those of the profile {profile.name}"


@profile_rule("profile_key_usage", "Legation profile")
def _profile_key_usage(parts: Parts, profile: Profile) -> str | None:
    if parts.value(x509.KeyUsage) == profile.key_usage:
        return None
    return f"its key usage is not that of the profile {profile.name}"


@profile_rule("profile_extended_key_usage", "Legation profile")
def _profile_extended_key_usage(parts: Parts, profile: Profile) -> str | None:
    wanted = profile.usages(has_spiffe_id=bool(parts.uris))
    if tuple(parts.value(x509.ExtendedKeyUsage) or ()) == wanted:
        return None
    return f"its extended key usage is not that of the profile {profile.name}"


@profile_rule("profile_lifetime", "Legation profile")
def _profile_lifetime(parts: Parts, profile: Profile) -> str | None:
    if parts.not_after - parts.not_before <= profile.max_lifetime:
        return None
    return f"it is valid for longer than the profile {profile.name} allows"


@profile_rule("profile_names", "Legation profile")
def _profile_names(parts: Parts, profile: Profile) -> str | None:
    for what, wanted, present in (
        ("SPIFFE ID", profile.spiffe_id, bool(parts.uris)),
        ("DNS name or IP address", profile.dns_names, len(parts.names) > len(parts.uris)),
        ("common name", profile.common_name, bool(parts.subject.rdns)),
    ):
        if wanted is Presence.REQUIRED and not present:
            return f"a {what} is missing in the profile {profile.name}"
        if wanted is Presence.FORBIDDEN and present:
            return f"there is a {what}, and the profile {profile.name} has none"
    return None


@profile_rule("profile_ocsp_no_check", "RFC 6960, section 4.2.2.2.1")
def _profile_ocsp_no_check(parts: Parts, profile: Profile) -> str | None:
    if (parts.has(x509.OCSPNoCheck)) == profile.ocsp_no_check:
        return None
    return f"ocsp-no-check is not as in the profile {profile.name}"


@profile_rule("profile_must_staple", "RFC 7633, section 4")
def _profile_must_staple(parts: Parts, profile: Profile) -> str | None:
    features = parts.value(x509.TLSFeature)
    if features is None:
        return None
    if profile.must_staple is Presence.FORBIDDEN:
        return f"there is a TLS feature, and the profile {profile.name} has none"
    if list(features) == [x509.TLSFeatureType.status_request]:
        return None
    return "its TLS features are others than status_request"
