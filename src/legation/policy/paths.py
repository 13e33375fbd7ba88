r"""Path normalisation, as the proxy does it before it compares a path with a policy.

A path can be written in many ways: ``/admin``, ``//admin``, ``/x/../admin``, ``/%61dmin``,
``/x%2f..%2fadmin``. A policy compares one: what Envoy makes of it with ``normalize_path``,
``merge_slashes`` and ``path_with_escaped_slashes_action: UNESCAPE_AND_REDIRECT``. An enforcement
point inside the application must come to the same path, byte for byte, so this module
follows Envoy 1.40 also where another choice would have been nicer; a test compares the two.

The steps, in Envoy's order; the query, from the first ``?`` on, stays as it is:

1. A fragment (``#``) is refused.
2. ``%2F`` and ``%5C`` become ``/`` and ``\``. The client is then redirected to the result, so
   that whoever stands behind the proxy never sees two readings of one path.
3. Parameters of dot segments go: ``/..;x/`` becomes ``/../``.
4. Dot segments are resolved (RFC 3986, section 5.2.4), ``%2E`` counts as a dot, ``\`` as a slash.
5. Escapes of unreserved characters are resolved (RFC 3986, section 2.3). All other escapes
   stay, in upper or lower case as they came: ``/a%3Ab`` and ``/a:b`` are two paths.
   ``%00`` is refused. A stray ``%`` stays, escaped itself where it would otherwise
   form an escape together with what comes after it.
6. Runs of slashes become one; a path of nothing but slashes becomes ``//``.
"""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final


class PathAction(Enum):
    """What to do with a request after its path was normalised."""

    CONTINUE = "continue"
    REDIRECT = "redirect"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class PathVerdict:
    """The outcome of normalisation.

    Attributes:
        action: `CONTINUE` with `path`; `REDIRECT` the client to `location` with status 307;
            `REJECT` the request with status 400.
        path: the normalised path without the query; empty if rejected.
        query: the query with its question mark, as it came; empty if there is none.
    """

    action: PathAction
    path: str
    query: str = ""

    @property
    def location(self) -> str:
        """Where to redirect to."""
        return self.path + self.query


_REJECTED: Final = PathVerdict(PathAction.REJECT, "")

# Visible ASCII without the fragment: Envoy's HTTP codecs refuse anything else.
_ACCEPTABLE = re.compile(r"/[!-\"$-~]*", re.ASCII)
# Nothing to do: no escape, no backslash, no empty segment, none that starts with a dot, and
# no character that is escaped in a path. Almost every request takes this way.
_PLAIN = r"A-Za-z0-9!$&'()*+,;=:@\[\]_~-"
_NORMAL = re.compile(rf"/|(?:/[{_PLAIN}][.{_PLAIN}]*)+/?", re.ASCII)

_ESCAPED_SLASH = re.compile(r"%(?:2[Ff]|5[Cc])", re.ASCII)
_DOT_SEGMENT_PARAMETERS = re.compile(r"(?<=/)(\.\.?);[^/]*", re.ASCII)
_SLASH = re.compile(r"[/\\]")
_HERE = re.compile(r"\.|%2[Ee]", re.ASCII)
_UP = re.compile(r"(?:\.|%2[Ee]){2}", re.ASCII)
_SLASHES = re.compile(r"//+")

_ESCAPED_IN_PATHS = {ord(character): f"%{ord(character):02X}" for character in '"<>^`{|}'}
_TOKEN = re.compile(r"%[0-9A-Fa-f]{2}|%|[^%]+", re.ASCII)
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]", re.ASCII)
_HEXADECIMAL = frozenset("0123456789ABCDEFabcdef")
_STRAY = "\0"  # a stray percent sign in the output; no accepted path holds a NUL


def normalise_path(raw: str) -> PathVerdict:
    """Normalise the path of a request target.

    Args:
        raw: the request target in origin form (RFC 9112, section 3.2.1), such as
            ``/a/../b?q=1``. Anything but visible ASCII is refused, as by Envoy's codecs.
    """
    if not _ACCEPTABLE.fullmatch(raw):
        return _REJECTED
    path, mark, rest = raw.partition("?")
    query = mark + rest
    if _NORMAL.fullmatch(path):
        return PathVerdict(PathAction.CONTINUE, path, query)
    unescaped = _ESCAPED_SLASH.sub(_slash_of, path)
    action = PathAction.CONTINUE if unescaped == path else PathAction.REDIRECT
    unescaped = _DOT_SEGMENT_PARAMETERS.sub(r"\1", unescaped)
    if "%00" in unescaped:
        return _REJECTED
    canonical = _canonical(unescaped)
    only_slashes = len(canonical) > 1 and not canonical.strip("/")
    merged = "//" if only_slashes else _SLASHES.sub("/", canonical)
    return PathVerdict(action, merged, query)


def _slash_of(escape: re.Match[str]) -> str:
    return "/" if escape[0][1] == "2" else "\\"


def _canonical(path: str) -> str:
    """Resolve dot segments, and escapes of unreserved characters."""
    resolved: list[str] = []
    segments = _SLASH.split(path)[1:]
    for segment in segments:
        if _UP.fullmatch(segment):
            del resolved[-1:]
        elif not _HERE.fullmatch(segment):
            resolved.append(_escapes_resolved(segment.translate(_ESCAPED_IN_PATHS)))
    if _HERE.fullmatch(segments[-1]) or _UP.fullmatch(segments[-1]):
        resolved.append("")
    return "/" + "/".join(resolved)


def _escapes_resolved(segment: str) -> str:
    if "%" not in segment:
        return segment
    output: list[str] = []
    for token in _TOKEN.finditer(segment):
        text = token[0]
        if text == "%":
            output.append(_STRAY)
        elif text[0] != "%" or not _UNRESERVED.fullmatch(chr(int(text[1:], 16))):
            output.extend(text)
        else:
            output.append(chr(int(text[1:], 16)))
            _keep_stray_apart(output, segment[token.end() : token.end() + 1])
    return "".join(output).replace(_STRAY, "%")


def _keep_stray_apart(output: list[str], following: str) -> None:
    """Escape a stray percent sign that the character just unescaped would complete.

    ``%%32f`` must not become ``%2f``, which whoever comes next would take for a slash.
    """
    if output[-2:-1] == [_STRAY]:
        if {output[-1], following} <= _HEXADECIMAL:
            output[-2] = "%25"
    elif output[-3:-2] == [_STRAY] and {output[-2], output[-1]} <= _HEXADECIMAL:
        output[-3] = "%25"
