"""A certificate taken apart once, for those who look at all of it."""

from typing import Any, Final, TypeVar, cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

_T = TypeVar("_T", bound=x509.ExtensionType)

# What `cryptography` raises on a certificate whose outer frame could be read but whose
# content cannot. It parses lazily, so any attribute may be the first to find out.
# Its warnings, where warnings are errors, are about what a later version will refuse to read.
UNREADABLE: Final = (
    UserWarning,
    UnsupportedAlgorithm,
    ValueError,
    TypeError,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


class Parts:
    """The fields and extensions of one certificate.

    Attributes:
        certificate: the certificate itself.
        extensions: by the type of their value; those of an unknown kind are in `unknown`.
        unknown: extensions that `cryptography` does not know.
        ca: whether the basic constraints say so (RFC 5280, section 4.2.1.9).
        uris: of the subject alternative name, in its order.
        dns_names: likewise.

    Raises:
        One of `UNREADABLE`.
    """

    __slots__ = (
        "ca",
        "certificate",
        "dns_names",
        "extensions",
        "issuer",
        "names",
        "not_after",
        "not_before",
        "subject",
        "unknown",
        "uris",
    )

    def __init__(self, certificate: x509.Certificate) -> None:
        self.certificate = certificate
        self.subject = certificate.subject
        self.issuer = certificate.issuer
        self.not_before = certificate.not_valid_before_utc
        self.not_after = certificate.not_valid_after_utc
        self.extensions: dict[type, x509.Extension[Any]] = {}
        self.unknown: list[x509.Extension[x509.UnrecognizedExtension]] = []
        for extension in certificate.extensions:
            kind = type(extension.value)
            if kind is x509.UnrecognizedExtension:
                self.unknown.append(cast("x509.Extension[x509.UnrecognizedExtension]", extension))
            else:
                self.extensions[kind] = extension
        constraints = self.value(x509.BasicConstraints)
        self.ca = constraints is not None and constraints.ca
        self.names: list[x509.GeneralName] = list(self.value(x509.SubjectAlternativeName) or ())
        self.uris: list[str] = [
            name.value for name in self.names if type(name) is x509.UniformResourceIdentifier
        ]
        self.dns_names: list[str] = [
            name.value for name in self.names if type(name) is x509.DNSName
        ]

    def value(self, kind: type[_T]) -> _T | None:
        """Return the extension of this type, or None."""
        extension = self.extensions.get(kind)
        return None if extension is None else cast("_T", extension.value)

    def has(self, kind: type[x509.ExtensionType]) -> bool:
        """Tell whether there is such an extension."""
        return kind in self.extensions

    def critical(self, kind: type[x509.ExtensionType]) -> bool:
        """Tell whether there is such an extension and it is critical."""
        extension = self.extensions.get(kind)
        return extension is not None and extension.critical


def first_line(error: Exception) -> str:
    """Render a library's message for one of ours: one line, ASCII, bounded."""
    return ascii(str(error).partition("\n")[0][:120])[1:-1]
