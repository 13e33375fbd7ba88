"""The authority's metrics, each with its sentence in the reference."""

from typing import Final

from legation.observe.metric import Metric, counter, gauge, histogram

_FAST: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_REQUEST: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

# --- the authority itself

READY: Final = gauge(
    "legation_ready", "Whether a part is fit to serve, as /readyz says: 1 or 0.", "part"
)
FEED_REVISION: Final = gauge("legation_feed_revision", "Newest revision of the feed.")
ENTRIES: Final = gauge("legation_entries", "Workload entries.")
POLICIES: Final = gauge("legation_policies", "Authorization policies.")
BANS: Final = gauge("legation_bans", "Identities that are banned.")
ISSUER_NOT_BEFORE: Final = gauge(
    "legation_issuer_not_before_timestamp_seconds",
    "From when a CA certificate of this authority is valid; role is root or issuing.",
    "issuer",
    "role",
)
ISSUER_NOT_AFTER: Final = gauge(
    "legation_issuer_not_after_timestamp_seconds",
    "Until when a CA certificate of this authority is valid.",
    "issuer",
    "role",
)
SERVING_NOT_AFTER: Final = gauge(
    "legation_serving_certificate_not_after_timestamp_seconds",
    "Until when the authority's own certificate is valid.",
)

# --- who has the memo

AGENTS: Final = gauge(
    "legation_agents", "Enrolled agents; state is connected (a stream is open) or away.", "state"
)
POINTS: Final = gauge(
    "legation_points",
    "Enforcement points by kind and standing: connected, late, unreachable or left.",
    "kind",
    "standing",
)
POINTS_LAG: Final = gauge(
    "legation_points_lag_seconds",
    "Age of the oldest revision that some point has not acknowledged; 0 when none lacks any.",
    "kind",
    "standing",
)
POINTS_FRESHNESS: Final = gauge(
    "legation_points_freshness",
    "Enforcement points by how old their data is against its bound: fresh, stale_soon, "
    "stale_refusing or stale_continuing.",
    "kind",
    "state",
)
POINTS_LEFT: Final = gauge(
    "legation_points_staleness_left_seconds",
    "Seconds until the first point of a kind reaches the bound of its data; 0 past it.",
    "kind",
)
STREAMS_OPENED: Final = counter(
    "legation_agent_streams_opened_total",
    "Streams that agents opened; start is resumed, or snapshot when the whole state was sent.",
    "start",
)
STREAMS_ENDED: Final = counter("legation_agent_streams_ended_total", "Streams that ended.")
STALENESS_ALARMS: Final = counter(
    "legation_staleness_alarms_total", "Points that came to a state of staleness.", "state"
)
NOT_IN_FORCE: Final = counter(
    "legation_certificates_not_in_force_total",
    "Times that a point was found not to serve the certificate issued for it.",
)

# --- revocation

REVOKED_NOW: Final = gauge(
    "legation_revocations_in_force", "Certificates that are revoked and have not expired."
)
REVOCATIONS: Final = counter(
    "legation_revocations_total",
    "Revocations that operators ordered, or responses to misuse, by what they were about.",
    "scope",
    "reason",
)
CERTIFICATES_REVOKED: Final = counter(
    "legation_certificates_revoked_total", "Certificates that were revoked.", "reason"
)
PROPAGATION: Final = histogram(
    "legation_revocation_propagation_seconds",
    "From a revocation's commit to a point's acknowledgement that it refuses, one per point.",
    "kind",
    buckets=_FAST,
)
UNACKNOWLEDGED: Final = counter(
    "legation_revocation_unacknowledged_total",
    "Connected points that had not acknowledged a revocation ten minutes after its commit.",
    "kind",
)
CRL_LISTS: Final = gauge("legation_crl_lists", "Revocation lists that are out.")
CRL_FIRST_THIS: Final = gauge(
    "legation_crl_first_this_update_timestamp_seconds",
    "thisUpdate of the revocation list that ends first.",
)
CRL_FIRST_NEXT: Final = gauge(
    "legation_crl_first_next_update_timestamp_seconds",
    "nextUpdate of the revocation list that ends first; past it every peer is refused.",
)
CRL_LARGEST: Final = gauge("legation_crl_largest_size_bytes", "Size of the largest list.")
CRL_NUMBER: Final = gauge(
    "legation_crl_number", "CRL number; left out where there are more than 64 lists.",
    "issuer", "shard",
)  # fmt: skip
CRL_ENTRIES: Final = gauge(
    "legation_crl_entries", "Certificates on a list; left out where there are more than 64.",
    "issuer", "shard",
)  # fmt: skip
CRL_SIZE: Final = gauge(
    "legation_crl_size_bytes", "Size of a list; left out where there are more than 64.",
    "issuer", "shard",
)  # fmt: skip
CRL_THIS: Final = gauge(
    "legation_crl_this_update_timestamp_seconds",
    "thisUpdate of a list; left out where there are more than 64.",
    "issuer", "shard",
)  # fmt: skip
CRL_NEXT: Final = gauge(
    "legation_crl_next_update_timestamp_seconds",
    "nextUpdate of a list; left out where there are more than 64.",
    "issuer", "shard",
)  # fmt: skip
CRLS_PUBLISHED: Final = counter("legation_crls_published_total", "Lists that were published.")
CRL_FAILURES: Final = counter(
    "legation_crl_failures_total", "Attempts to make a list that failed; each is repeated."
)
CRL_DURATION: Final = histogram(
    "legation_crl_publication_duration_seconds", "Time to make and record a list.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)  # fmt: skip
OCSP_KEPT: Final = gauge("legation_ocsp_responses_kept", "Signed OCSP responses that are kept.")
OCSP_RESPONSES: Final = counter(
    "legation_ocsp_responses_total",
    "OCSP requests that were answered; status is good, revoked, unknown, several (questions in "
    "one request) or an error of RFC 6960.",
    "status",
)
OCSP_REFRESH_FAILURES: Final = counter(
    "legation_ocsp_refresh_failures_total",
    "Times that kept OCSP responses could not be signed anew.",
)

# --- drills

DRILLS: Final = counter(
    "legation_drills_total", "Drills that were reported; outcome is held or failed.", "outcome"
)
DRILL_LAST: Final = gauge(
    "legation_drill_last_timestamp_seconds", "When the newest drill was; 0 if there was none."
)
DRILL_FINDINGS: Final = gauge("legation_drill_last_findings", "Findings of the newest drill.")
DRILL_TARGETS: Final = gauge("legation_drill_last_targets", "Targets of the newest drill.")
DRILL_OUTCOME: Final = gauge(
    "legation_drill_last_outcome",
    "Always 1; what came of the newest drill at a target, findings first, at most 512 rows.",
    "target",
    "kind",
    "outcome",
)
DRILL_REFUSAL: Final = gauge(
    "legation_drill_last_refusal_seconds",
    "From the revocation of the decoy to its first refusal, seen from outside.",
    "target",
    "kind",
)

# --- what is odd, and what is refused

SIGNALS_OPEN: Final = gauge(
    "legation_misuse_signals_open",
    "Misuse signals that nobody has decided on, among the newest thousand.",
    "kind",
    "severity",
)
SIGNALS: Final = counter(
    "legation_misuse_signals_total", "Misuse signals that were raised.", "kind", "severity"
)
HANDSHAKES_REFUSED: Final = counter(
    "legation_handshakes_refused_total",
    "Handshakes and requests that enforcement points refused, as agents report them.",
    "cause",
)
REQUESTS_REFUSED: Final = counter(
    "legation_requests_refused_total",
    "Requests of agents that the authority turned down, by error code.",
    "action",
    "code",
)

# --- issuance

CERTIFICATES_ISSUED: Final = counter(
    "legation_certificates_issued_total", "Certificates that left.", "profile"
)
ISSUANCE_DURATION: Final = histogram(
    "legation_issuance_duration_seconds",
    "Time that a request for certificates took, durable record included.",
    "profile",
    buckets=_REQUEST,
)
TOKENS_ISSUED: Final = counter("legation_jwt_svids_issued_total", "JWT-SVIDs that left.")
ENROLMENTS: Final = counter(
    "legation_enrolments_total", "Agents that joined, by kind of evidence.", "evidence"
)

METRICS: Final[tuple[Metric, ...]] = tuple(
    each for each in list(globals().values()) if isinstance(each, Metric)
)
