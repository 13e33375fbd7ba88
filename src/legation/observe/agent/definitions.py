"""The agent's metrics, each with its sentence in the reference."""

from typing import Final

from legation.observe.metric import Metric, counter, gauge

# --- the authority, as this node sees it

CONNECTED: Final = gauge(
    "legation_agent_connected", "Whether the stream to the authority is open: 1 or 0."
)
LAST_CONTACT: Final = gauge(
    "legation_agent_last_contact_timestamp_seconds",
    "When the authority was last heard; 0 if it was not since the start.",
)
IN_STEP: Final = gauge(
    "legation_agent_in_step_timestamp_seconds",
    "When the authority last said that nothing is missing here.",
)
CLOCK_SKEW: Final = gauge(
    "legation_agent_clock_skew_seconds", "The authority's clock minus this node's."
)
FEED_REVISION: Final = gauge(
    "legation_agent_feed_revision", "Revision of the feed that the agent itself has in force."
)

# --- certificates

OWN_NOT_AFTER: Final = gauge(
    "legation_agent_certificate_not_after_timestamp_seconds",
    "Until when the agent's own certificate is valid.",
)
OWN_FAILING: Final = gauge(
    "legation_agent_certificate_renewal_failing",
    "Whether the last attempt to renew the agent's own certificate failed: 1 or 0.",
)
IDENTITIES: Final = gauge(
    "legation_agent_identities",
    "Workload identities; state is current, failing (the last attempt to renew failed), "
    "rejected (the one before serves again) or missing (no certificate).",
    "state",
)
FIRST_NOT_AFTER: Final = gauge(
    "legation_agent_identities_first_not_after_timestamp_seconds",
    "When the first certificate of a workload identity ends.",
)
CERTIFICATIONS: Final = counter(
    "legation_agent_certifications_total",
    "Attempts to certify a workload identity; outcome is issued, failed or rolled_back.",
    "outcome",
)
NOT_IN_FORCE: Final = gauge(
    "legation_agent_certificates_not_in_force",
    "Certificates that a point does not serve although it was given them.",
)
STAPLES: Final = gauge("legation_agent_staples", "Certificates with an OCSP response to staple.")
SINKS: Final = gauge("legation_agent_sinks", "Identities kept as files, by state.", "state")

# --- enforcement points

POINTS: Final = gauge("legation_agent_points", "Enforcement points of this node.", "kind")
POINTS_BEHIND: Final = gauge(
    "legation_agent_points_behind",
    "Enforcement points that have an older revision in force than the agent.",
    "kind",
)
POINTS_REVISION: Final = gauge(
    "legation_agent_points_first_revision",
    "Oldest revision that a point of this kind has in force.",
    "kind",
)
POINTS_FRESHNESS: Final = gauge(
    "legation_agent_points_freshness",
    "Enforcement points by how old their data is against its bound: fresh, stale_soon, "
    "stale_refusing or stale_continuing.",
    "kind",
    "state",
)
POINTS_LEFT: Final = gauge(
    "legation_agent_points_staleness_left_seconds",
    "Seconds until the first point of a kind reaches the bound of its data; 0 past it.",
    "kind",
)
REFUSED: Final = counter(
    "legation_agent_handshakes_refused_total",
    "Handshakes and requests that points of this node refused.",
    "cause",
)

METRICS: Final[tuple[Metric, ...]] = tuple(
    each for each in list(globals().values()) if isinstance(each, Metric)
)
