"""Linting certificate after certificate of the same kind.

Certificates of one kind differ in their serial number, both moments, the key, its
identifier and the alternative names. What is left of a certificate's bytes without the
contents of these six is its *frame*; one that was found clean need not be gone through
again:

1. A frame holds every tag, length and object identifier around the six. So two
   certificates with the same frame have their own parts at the same places, and are the
   same everywhere else. (Frames are compared as bytes, not by a hash of them.)
2. When the first certificate of a frame was linted in full and found clean, every rule is
   watched while it runs once more. A rule that looked at none of the six has nothing to
   depend on but the frame, and stays content with every certificate that has it. Which
   rules these are is observed, never declared: a rule that changes cannot be forgotten.
3. All other rules run for each certificate, on values read from its own bytes.

Whenever a rule finds something, and for whatever cannot be taken apart in this way, the
certificate is linted in full and that verdict counts, in its own words. Of the time that
linting takes, this saves more than half.
"""

from collections.abc import Callable
from datetime import datetime
from functools import partial
from ipaddress import ip_address
from typing import Any, Final, TypeAlias, cast

from cryptography import x509

from legation.errors import InvalidInput
from legation.pki import der
from legation.pki.lint.engine import Finding, is_svid, lint, rules_for
from legation.pki.lint.registry import PROFILE_LINTS
from legation.pki.parts import UNREADABLE, Parts
from legation.pki.profiles import Profile

MAX_FRAMES: Final = 1024

_EXTENSIONS: Final = 0xA3  # [3] of a TBSCertificate (RFC 5280, section 4.1)
_HEAD: Final = 15
_KEY_IDENTIFIER: Final = der.object_identifier("2.5.29.14")
_ALTERNATIVE_NAME: Final = der.object_identifier("2.5.29.17")
# Of a GeneralName (RFC 5280, section 4.2.1.6), as implicit tags of primitive values.
_DNS_NAME: Final = 0x82
_URI: Final = 0x86
_IP_ADDRESS: Final = 0x87

_OWN_EXTENSIONS: Final = {x509.SubjectKeyIdentifier, x509.SubjectAlternativeName}

_Spans: TypeAlias = tuple[int, ...]
_Key: TypeAlias = tuple[Profile, _Spans, bytes]


class FrameLinter:
    """A linter that remembers clean frames, up to `MAX_FRAMES` of them."""

    __slots__ = ("_frames", "_guesses")

    def __init__(self) -> None:
        self._frames: dict[_Key, _Frame] = {}
        self._guesses: dict[bytes, _Spans] = {}

    def lint(self, data: bytes, profile: Profile) -> list[Finding]:
        """Return the same as `legation.pki.lint.lint` for the certificate `data` in DER.

        The signature belongs to the frame: it should be the same placeholder every time.

        Raises:
            InvalidInput: `data` is no certificate.
        """
        try:
            certificate = x509.load_der_x509_certificate(data)
        except UNREADABLE:
            raise InvalidInput("a certificate with these values cannot be written") from None
        try:
            if self._is_clean(certificate, data, profile):
                return []
        except (InvalidInput, *UNREADABLE):
            pass  # to be said in words
        findings = lint(certificate, profile)
        if not findings:
            self._remember(certificate, data, profile)
        return findings

    def _is_clean(self, certificate: x509.Certificate, data: bytes, profile: Profile) -> bool:
        # Where the own parts lie is guessed from a certificate of the same length. The guess
        # is right if the frame is known: all that would lead to these places is in it.
        hint = _hint(data)
        spans = self._guesses.get(hint, ())
        frame = self._frames.get((profile, spans, _without(data, spans)))
        if frame is None:
            spans = _own_spans(data)
            frame = self._frames.get((profile, spans, _without(data, spans)))
            if frame is None:
                return False
            self._guesses[hint] = spans
        return frame.is_content_with(_Own(certificate, data[spans[-2] : spans[-1]]))

    def _remember(self, certificate: x509.Certificate, data: bytes, profile: Profile) -> None:
        try:
            spans = _own_spans(data)
            own = _Own(certificate, data[spans[-2] : spans[-1]])
        except (InvalidInput, *UNREADABLE):
            return  # and every other like it is linted in full
        if len(self._frames) >= MAX_FRAMES:
            self._frames.clear()
            self._guesses.clear()
        self._guesses[_hint(data)] = spans
        self._frames[profile, spans, _without(data, spans)] = _Frame(certificate, own, profile)


class _Own:
    """What one certificate does not share with the others of its frame."""

    __slots__ = ("certificate", "dns_names", "names", "uris")

    def __init__(self, certificate: x509.Certificate, names: bytes) -> None:
        self.certificate = certificate
        self.names = _general_names(names)
        self.uris = [
            name.value for name in self.names if type(name) is x509.UniformResourceIdentifier
        ]
        self.dns_names = [name.value for name in self.names if type(name) is x509.DNSName]


class _Frame:
    """A frame that is clean, and the rules that its certificates must still be held against."""

    __slots__ = ("_profile", "_profile_rules", "_rules", "_shared", "_svid")

    def __init__(self, certificate: x509.Certificate, own: _Own, profile: Profile) -> None:
        self._profile = profile
        self._shared = Parts(certificate)
        self._svid = is_svid(profile, own.uris)
        view = _View(self._shared, own)
        self._rules = [
            rule
            for rule in rules_for(ca=self._shared.ca, svid=self._svid)
            if view.is_looked_at(partial(rule.check, cast("Parts", view)))
        ]
        self._profile_rules = [
            rule
            for rule in PROFILE_LINTS
            if view.is_looked_at(partial(rule.check, cast("Parts", view), profile))
        ]

    def is_content_with(self, own: _Own) -> bool:
        # Other rules are for an SVID, and these were not watched.
        if is_svid(self._profile, own.uris) != self._svid:
            return False
        parts = cast("Parts", _View(self._shared, own))
        for rule in self._rules:
            if rule.check(parts) is not None:
                return False
        for profile_rule in self._profile_rules:
            if profile_rule.check(parts, self._profile) is not None:
                return False
        return True


class _View:
    """Stands for the `Parts` of a certificate, and notes when a rule looks at its own ones.

    What the frame holds comes from the first certificate that had it; anything else, and
    anything in doubt, comes from the certificate itself and counts as its own.
    """

    __slots__ = ("_looked", "_own", "_shared", "ca", "issuer", "subject", "unknown")

    def __init__(self, shared: Parts, own: _Own) -> None:
        self._looked = False
        self._own = own
        self._shared = shared
        self.ca = shared.ca
        self.issuer = shared.issuer
        self.subject = shared.subject
        self.unknown = shared.unknown

    def is_looked_at(self, check: Callable[[], object]) -> bool:
        """Run a rule and tell whether it looked at anything of the certificate's own."""
        self._looked = False
        check()
        return self._looked

    def has(self, kind: type[x509.ExtensionType]) -> bool:
        return self._shared.has(kind)

    def critical(self, kind: type[x509.ExtensionType]) -> bool:
        return self._shared.critical(kind)

    def value(self, kind: type[x509.ExtensionType]) -> x509.ExtensionType | None:
        if kind in _OWN_EXTENSIONS:
            return Parts(self.certificate).value(kind)
        return self._shared.value(kind)

    @property
    def extensions(self) -> dict[type, x509.Extension[Any]]:
        return Parts(self.certificate).extensions

    @property
    def certificate(self) -> x509.Certificate:
        self._looked = True
        return self._own.certificate

    @property
    def not_before(self) -> datetime:
        return self.certificate.not_valid_before_utc

    @property
    def not_after(self) -> datetime:
        return self.certificate.not_valid_after_utc

    @property
    def names(self) -> list[x509.GeneralName]:
        self._looked = True
        return self._own.names

    @property
    def uris(self) -> list[str]:
        self._looked = True
        return self._own.uris

    @property
    def dns_names(self) -> list[str]:
        self._looked = True
        return self._own.dns_names


def _hint(data: bytes) -> bytes:
    """Return what certificates with their own parts at the same places have in common.

    That is the head with the three lengths of the whole, of what is signed and of the
    serial number. Others may have it too.
    """
    return data[:_HEAD]


def _own_spans(data: bytes) -> _Spans:
    """Return where the contents of the six own parts begin and end, the names last.

    Raises:
        InvalidInput: it is not readable, or one of the six is missing or elsewhere.
    """
    _, start, end = der.read(data, 0, len(data))
    _, start, end = der.read(data, start, end)
    try:
        # Version, serial number, algorithm, issuer, validity, subject, key, extensions.
        _, serial, _, _, validity, _, key, extensions = der.read_all(data, start, end)
        not_before, not_after = der.read_all(data, *validity[1:])
    except ValueError:
        raise _unusual() from None
    if extensions[0] != _EXTENSIONS:
        raise _unusual()
    _, start, end = der.read(data, *extensions[1:])
    identifier = names = None
    for _, begin, stop in der.read_all(data, start, end):
        if data.startswith(_KEY_IDENTIFIER, begin):
            identifier = _value(data, begin, stop)
        elif data.startswith(_ALTERNATIVE_NAME, begin):
            names = _value(data, begin, stop)
    if identifier is None or names is None or identifier > names:
        raise _unusual()
    spans = (serial, not_before, not_after, key, identifier, names)
    return tuple(edge for _, *edges in spans for edge in edges)


def _unusual() -> InvalidInput:
    return InvalidInput("not a certificate that can be taken apart into frame and own parts")


def _value(data: bytes, start: int, end: int) -> tuple[int, int, int]:
    """Read the value that the last member of an extension, an OCTET STRING, wraps."""
    _, start, end = der.read_all(data, start, end)[-1]
    value = der.read(data, start, end)
    if value[2] != end:
        raise _unusual()
    return value


def _without(data: bytes, spans: _Spans) -> bytes:
    edges = (0, *spans, len(data))
    return b"".join([data[edges[i] : edges[i + 1]] for i in range(0, len(edges), 2)])


def _general_names(data: bytes) -> list[x509.GeneralName]:
    """Read the content of a SubjectAlternativeName.

    Raises:
        InvalidInput: it is not readable, or has a name of another kind than Legation issues.
        ValueError: a name is not ASCII, or an address has a wrong length.
    """
    names: list[x509.GeneralName] = []
    for tag, start, end in der.read_all(data, 0, len(data)):
        content = data[start:end]
        if tag == _URI:
            names.append(x509.UniformResourceIdentifier(content.decode("ascii")))
        elif tag == _DNS_NAME:
            names.append(x509.DNSName(content.decode("ascii")))
        elif tag == _IP_ADDRESS:
            names.append(x509.IPAddress(ip_address(content)))
        else:
            raise _unusual()
    return names
