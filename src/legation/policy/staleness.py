"""How old an enforcement point's revocation data may become, and what happens then.

::

    apiVersion: legation/v1
    kind: StalenessPolicy
    metadata:
      name: payments
    spec:
      to: [spiffe://example.org/payments/*]   # the enforcement points' own identities
      bound: 30m
      then: refuse                            # or continue
      warnAt: 50%                             # of the bound; this is the default

What it means:

1. The age of a point's data is the time since its agent was last in step with the authority.
2. Past ``bound`` the point refuses everyone (``refuse``), or goes on with what it knows
   (``continue``): what was revoked before stays refused.
3. From ``warnAt`` of the bound on the point is *stale soon*, which raises an alarm.
4. Of several policies the one with the most specific pattern governs: a whole SPIFFE ID
   before a pattern; then more segments before the first ``*``, more literal segments, more
   segments; of equals, the policy whose name comes first.
5. Where none governs, the validity of the revocation lists is the bound, and past it new
   handshakes are refused.

The reasons are in ``docs/decisions/staleness.md``.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from legation.policy.model import API_VERSION
from legation.policy.patterns import SCHEME, Form, SpiffeIDPattern
from legation.policy.reading import InvalidPolicy, envelope, shown, text_at

STALENESS_KIND = "StalenessPolicy"
# The authority is heard every three seconds. A bound of less than three of these would take
# one lost packet for an outage.
MIN_BOUND_S = 10
MAX_BOUND_S = 30 * 86_400
DEFAULT_WARN_PERCENT = 50
# The kinds of points that enforce what their agent tells them. A server behind a sink refuses
# by the nextUpdate of its list, whatever we would like.
JUDGED_KINDS = frozenset({"envoy", "envoy-sds", "sdk"})
# What governs where no policy does.
LISTS_POLICY = "revocation lists"

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_BOUND = re.compile(r"(?:[0-9]{1,9}[smhd]){1,4}", re.ASCII)
_PART = re.compile(r"([0-9]+)([smhd])", re.ASCII)
_PERCENT = re.compile(r"([1-9][0-9]?)%", re.ASCII)
_SPEC_HINTS = {"target": 'did you mean "to"?', "action": 'did you mean "then"?'}

_Specificity = tuple[bool, int, int, int]


class Then(StrEnum):
    """What a point does once its data is older than it may be."""

    REFUSE = "refuse"
    CONTINUE = "continue"


class Freshness(StrEnum):
    """How a point's data stands to its bound."""

    FRESH = "fresh"
    STALE_SOON = "stale_soon"
    STALE_REFUSING = "stale_refusing"
    STALE_CONTINUING = "stale_continuing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What governs one point.

    Attributes:
        policy: the name of the policy; `LISTS_POLICY` where there is none.
        bound_s: how old its data may become, in seconds.
        then: what happens afterwards.
        warn_at: share of the bound, between 0 and 1, from which on it is stale soon.
    """

    policy: str = LISTS_POLICY
    bound_s: float
    then: Then = Then.REFUSE
    warn_at: float = DEFAULT_WARN_PERCENT / 100

    def judge(self, age_s: float) -> Freshness:
        """Return how data of this age stands."""
        if age_s >= self.bound_s:
            refuses = self.then is Then.REFUSE
            return Freshness.STALE_REFUSING if refuses else Freshness.STALE_CONTINUING
        soon = age_s >= self.bound_s * self.warn_at
        return Freshness.STALE_SOON if soon else Freshness.FRESH


@dataclass(frozen=True, slots=True, kw_only=True)
class StalenessPolicy:
    """How long some enforcement points may run without news, and what they do then.

    Attributes:
        name: unique; status, logs and refusals carry it.
        to: patterns for the SPIFFE IDs that the points act under. Never empty.
        bound_s: how old their data may become, in seconds.
        then: refuse everyone afterwards, or go on.
        warn_percent: share of the bound from which on they are stale soon, 1 to 99.
    """

    name: str
    to: tuple[SpiffeIDPattern, ...]
    bound_s: int
    then: Then
    warn_percent: int = DEFAULT_WARN_PERCENT

    @classmethod
    def from_document(cls, document: object) -> "StalenessPolicy":
        """Read a policy from a mapping, as YAML or JSON gives it.

        Raises:
            InvalidPolicy: a field is missing, unknown or malformed; the message and `path`
                name it.
            PolicyTooLarge: more than what is accepted of something.
        """
        name, spec = envelope(
            document,
            version=API_VERSION,
            kind=STALENESS_KIND,
            spec=("to", "bound", "then", "warnAt"),
            hints=_SPEC_HINTS,
        )
        spec.required("to")
        return cls(
            name=name,
            to=spec.items("to", SpiffeIDPattern.parse),
            bound_s=_seconds(spec.required("bound"), "spec.bound"),
            then=Then(spec.word("then", Then)),
            warn_percent=(
                _percent(spec.required("warnAt"), "spec.warnAt")
                if "warnAt" in spec
                else DEFAULT_WARN_PERCENT
            ),
        )

    def to_document(self) -> dict[str, Any]:
        """Render the policy; `from_document` gives an equal one back."""
        return {
            "apiVersion": API_VERSION,
            "kind": STALENESS_KIND,
            "metadata": {"name": self.name},
            "spec": {
                "to": [str(pattern) for pattern in self.to],
                "bound": _duration(self.bound_s),
                "then": str(self.then),
                "warnAt": f"{self.warn_percent}%",
            },
        }

    @property
    def bound(self) -> Bound:
        """What it says of the points that it governs."""
        return Bound(
            policy=self.name,
            bound_s=self.bound_s,
            then=self.then,
            warn_at=self.warn_percent / 100,
        )


def governing(policies: Iterable[StalenessPolicy], spiffe_id: str) -> StalenessPolicy | None:
    """Return the policy that governs the point that acts under `spiffe_id`, or None."""
    best: tuple[_Specificity, StalenessPolicy] | None = None
    for policy in sorted(policies, key=lambda policy: policy.name):
        for pattern in policy.to:
            if not pattern.matches(spiffe_id):
                continue
            specificity = _specificity(pattern)
            if best is None or specificity > best[0]:
                best = specificity, policy
    return None if best is None else best[1]


class Governance:
    """Which policy governs whom: found once for each change of the policies."""

    _MAX_KNOWN = 65_536  # identities; more are found anew

    def __init__(self) -> None:
        self._policies: Mapping[str, StalenessPolicy] = {}
        self._known: dict[str, StalenessPolicy | None] = {}

    def policy_of(
        self, spiffe_id: str, policies: Mapping[str, StalenessPolicy]
    ) -> StalenessPolicy | None:
        """Return what `governing` does."""
        if self._policies != policies or len(self._known) >= self._MAX_KNOWN:
            self._policies, self._known = dict(policies), {}
        if spiffe_id not in self._known:
            self._known[spiffe_id] = governing(policies.values(), spiffe_id)
        return self._known[spiffe_id]


def _specificity(pattern: SpiffeIDPattern) -> _Specificity:
    segments = pattern.text[len(SCHEME) :].split("/")
    first = segments.index("*") if "*" in segments else len(segments)
    literal = len(segments) - segments.count("*")
    return pattern.form is Form.EXACT, first, literal, len(segments)


def _seconds(value: object, path: str) -> int:
    text = text_at(value, path)
    if not _BOUND.fullmatch(text):
        raise InvalidPolicy(
            path, f"{shown(text)} is not a duration", remedy='write "90s", "30m", "1h30m" or "2d"'
        )
    seconds = sum(int(count) * _SECONDS[unit] for count, unit in _PART.findall(text))
    if not MIN_BOUND_S <= seconds <= MAX_BOUND_S:
        raise InvalidPolicy(
            path,
            f"{shown(text)} is out of range",
            remedy=f"from {_duration(MIN_BOUND_S)} to {_duration(MAX_BOUND_S)}: agents hear "
            "from the authority every few seconds",
        )
    return seconds


def _duration(seconds: int) -> str:
    """Render in the largest unit that leaves no rest."""
    unit = next(unit for unit in reversed(_SECONDS) if seconds % _SECONDS[unit] == 0)
    return f"{seconds // _SECONDS[unit]}{unit}"


def _percent(value: object, path: str) -> int:
    text = text_at(value, path)
    found = _PERCENT.fullmatch(text)
    if found is None:
        raise InvalidPolicy(path, f"{shown(text)} is not a share", remedy="from 1% to 99%")
    return int(found[1])
