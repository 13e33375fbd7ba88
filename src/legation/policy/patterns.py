"""Patterns for SPIFFE IDs and paths.

Each pattern has one `form` that Envoy's StringMatcher has as well, so that the matcher here
and Envoy decide alike: exact, prefix, suffix, or a regular expression of the subset that
RE2 and Python read alike (literals, one character class, ``+``).

A SPIFFE ID pattern is a SPIFFE ID in which a ``*`` may stand for a whole path segment:

* ``spiffe://example.org/api``: this identity.
* ``spiffe://example.org/*``, ``spiffe://example.org/ns/*``: as the last segment, every
  identity below, one segment or more. Not ``spiffe://example.org/ns`` itself.
* ``spiffe://example.org/ns/*/api``: elsewhere, exactly one segment.

A path pattern is ``/exact``, ``/below/*`` (every path that starts with ``/below/``),
``*/suffix`` (every path that ends in ``/suffix``) or ``*`` (any path). It is compared with the
normalised path without the query, so a pattern that is not itself normalised could never
match, and is refused: in a DENY policy it would be a hole. The pattern ``/`` matches the path
``//`` as well, which is what Envoy leaves of a path of nothing but slashes.
"""

import re
from dataclasses import dataclass
from enum import Enum

from legation.policy.paths import PathAction, normalise_path
from legation.policy.reading import InvalidPolicy, PolicyTooLarge, shown, text_at

SCHEME = "spiffe://"
MAX_PATH_LENGTH = 1024

# Envoy refuses a larger program, and with it every policy of the workload: it would go on with
# the old ones. RE2 counts instructions; `re2.max_program_size.error_level` is this by default.
_MAX_PROGRAM_SIZE = 100

# The grammar of the SPIFFE ID standard, sections 2.1 and 2.2; `legation.pki` has the full
# parser, but needs more than the standard library.
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}", re.ASCII)
_SEGMENT_CHARACTERS = "A-Za-z0-9._-"
_SEGMENT = re.compile(f"[{_SEGMENT_CHARACTERS}]+", re.ASCII)


class Form(Enum):
    """How a pattern compares: the arms of Envoy's StringMatcher, and `ANY`."""

    EXACT = "exact"
    PREFIX = "prefix"
    SUFFIX = "suffix"
    REGEX = "safe_regex"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class SpiffeIDPattern:
    """A pattern for SPIFFE IDs.

    Attributes:
        text: as the author wrote it.
        form: `EXACT`, `PREFIX` or `REGEX`.
        operand: what the form compares with. A regular expression must match as a whole.
    """

    text: str
    form: Form
    operand: str

    @classmethod
    def parse(cls, value: object, path: str = "") -> "SpiffeIDPattern":
        """Read a pattern; `path` is where it stands in the document.

        Raises:
            InvalidPolicy: not a pattern.
        """
        text = text_at(value, path)
        if not text.startswith(SCHEME):
            raise InvalidPolicy(
                path,
                f"{shown(text)} is not a SPIFFE ID pattern",
                remedy="it starts with spiffe:// and a trust domain; "
                "for any authenticated caller leave `from` out",
            )
        trust_domain, *segments = text[len(SCHEME) :].split("/")
        if not _TRUST_DOMAIN.fullmatch(trust_domain):
            raise InvalidPolicy(
                path,
                f"{shown(trust_domain)} is not a trust domain",
                remedy="lower-case letters, digits, dots, dashes and underscores; no wildcard",
            )
        for segment in segments:
            _check_segment(segment, path)
        form, operand = _compiled(text, segments)
        if form is Form.REGEX and _program_size(text) > _MAX_PROGRAM_SIZE:
            raise PolicyTooLarge(
                path,
                f"{shown(text)} is too long for a pattern with an inner wildcard",
                remedy="use a wildcard at the end only, or list the identities",
            )
        return cls(text, form, operand)

    def matches(self, spiffe_id: str) -> bool:
        """Tell whether `spiffe_id` is meant."""
        match self.form:
            case Form.EXACT:
                return spiffe_id == self.operand
            case Form.PREFIX:
                return spiffe_id.startswith(self.operand)
            case _:
                return re.fullmatch(self.operand, spiffe_id, re.ASCII) is not None

    def __str__(self) -> str:
        return self.text


def _check_segment(segment: str, path: str) -> None:
    if segment == "*":
        return
    if "*" in segment:
        raise InvalidPolicy(
            path, f'in {shown(segment)} the "*" is a part of a segment', remedy="it stands alone"
        )
    if segment in {"", ".", ".."} or not _SEGMENT.fullmatch(segment):
        raise InvalidPolicy(
            path,
            f"{shown(segment)} is not a path segment of a SPIFFE ID",
            remedy="letters, digits, dots, dashes and underscores, no empty segment, "
            "no '.' or '..', no trailing slash",
        )


def _compiled(text: str, segments: list[str]) -> tuple[Form, str]:
    if "*" not in segments:
        return Form.EXACT, text
    if segments.index("*") == len(segments) - 1:
        return Form.PREFIX, text[:-1]
    *inner, last = segments
    # Only dots need escaping: a checked segment has no other character with a meaning.
    parts = [SCHEME + text[len(SCHEME) :].partition("/")[0].replace(".", r"\.")]
    parts += [f"[{_SEGMENT_CHARACTERS}]+" if s == "*" else s.replace(".", r"\.") for s in inner]
    parts.append(f"[/{_SEGMENT_CHARACTERS}]+" if last == "*" else last.replace(".", r"\."))
    return Form.REGEX, "/".join(parts)


def _program_size(text: str) -> int:
    """Return how many instructions RE2 makes of a pattern: one a character, six a class."""
    wildcards = text.count("*")
    return len(text) - wildcards + 6 * wildcards + 2


@dataclass(frozen=True, slots=True)
class PathPattern:
    """A pattern for the normalised path of an HTTP request, without its query.

    Attributes:
        text: as the author wrote it.
        form: `EXACT`, `PREFIX`, `SUFFIX` or `ANY`.
        operand: what the form compares with; empty for `ANY`.
    """

    text: str
    form: Form
    operand: str

    @classmethod
    def parse(cls, value: object, path: str = "") -> "PathPattern":
        """Read a pattern; `path` is where it stands in the document.

        Raises:
            InvalidPolicy: not a pattern, or one that no normalised path can match.
        """
        text = text_at(value, path)
        if len(text) > MAX_PATH_LENGTH:
            raise PolicyTooLarge(
                path, f"{len(text)} characters, at most {MAX_PATH_LENGTH} are accepted"
            )
        if text == "*":
            return cls(text, Form.ANY, "")
        form, operand = Form.EXACT, text
        if text.startswith("*/"):
            form, operand = Form.SUFFIX, text[1:]
        elif text.endswith("/*"):
            form, operand = Form.PREFIX, text[:-1]
        if "*" in operand:
            raise InvalidPolicy(
                path,
                f'in {shown(text)} the "*" is out of place',
                remedy='it may be the last segment ("/a/*"), the first ("*/a") or all of it ("*"); '
                'a "*" that is meant literally is written %2A',
            )
        _check_normalised(operand, text, path)
        return cls(text, form, operand)

    def matches(self, url_path: str) -> bool:
        """Tell whether `url_path`, normalised and without its query, is meant."""
        match self.form:
            case Form.EXACT:
                return url_path == self.operand or (url_path == "//" and self.operand == "/")
            case Form.PREFIX:
                return url_path.startswith(self.operand)
            case Form.SUFFIX:
                return url_path.endswith(self.operand)
            case _:
                return True

    def __str__(self) -> str:
        return self.text


def _check_normalised(operand: str, text: str, path: str) -> None:
    if not operand.startswith("/"):
        raise InvalidPolicy(path, f"{shown(text)} does not start with a slash")
    if "?" in operand or "#" in operand:
        raise InvalidPolicy(
            path, f"{shown(text)} has a query or fragment", remedy="paths are compared without them"
        )
    verdict = normalise_path(operand)
    if verdict.action is not PathAction.CONTINUE or verdict.path != operand or operand == "//":
        raise InvalidPolicy(
            path,
            f"{shown(text)} can never match: it is not a normalised path",
            remedy="no empty, '.' or '..' segments, no backslashes, no escaped slashes, "
            "other characters as a client sends them, percent-encoded",
        )
