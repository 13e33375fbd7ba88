"""What the authority is told before it starts."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Self

from legation.config.attestation import NodeAttestation
from legation.config.misuse import Misuse
from legation.config.server import ServerConfig, shortest_record
from legation.errors import InvalidInput
from legation.pki.keys import KeyAlgorithm
from legation.pki.spiffe_id import TrustDomain

MAX_SHARDS = 4096
OCSP_PATH = "/ocsp"  # on the status port


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthoritySettings:
    """Settings of one authority; every duration is in seconds.

    Attributes:
        trust_domain: whose authority it is.
        data_dir: holds the database and the lock; mode 0700.
        dns_names: of the authority's own servers, for clients that check them.
        ip_addresses: likewise.
        status_url: where the status port is reached from outside, without a trailing
            slash; certificates and revocation lists name it. Empty: they name nothing.
        workload_lifetime_s: of certificates whose entry says nothing else.
        max_lifetime_s: the most that an entry may ask for.
        agent_lifetime_s: of agents' own certificates.
        operator_lifetime_s: of operators' certificates, unless asked otherwise.
        server_lifetime_s: of the authority's own certificate.
        crl_validity_s: from a revocation list's thisUpdate to its nextUpdate.
        crl_refresh_s: how long after a list the next one comes, though nothing changed;
            None for an eighth of the validity.
        crl_shards: how many lists each issuer spreads its certificates over.
        crl_delta: whether delta lists are published beside the whole ones.
        crl_compact: whether the compact sets of revoked serial numbers are published, too.
        backdate_s: how far notBefore lies in the past, for slow clocks; never more than
            a tenth of the lifetime.
        ocsp_enabled: whether questions about single certificates are answered.
        ocsp_validity_s: from an OCSP response's thisUpdate to its nextUpdate.
        ocsp_refresh_s: how old one gets before it is signed anew; None for half of the validity.
        ocsp_in_certificates: whether certificates name the responder.
        jwt_lifetime_s: of JWT-SVIDs.
        jwt_key_lifetime_s: how long a key signs JWT-SVIDs before the next one takes over.
        jwt_key_published_ahead_s: how long before it signs a key is in the trust bundle.
        jwt_key_algorithm: of keys that sign JWT-SVIDs.
        jwt_issuer: the OIDC issuer that JWT-SVIDs name, without a trailing slash; empty for none.
        keep_expired_s: how long an expired certificate, or join token, stays on record.
        keep_audit_s: how long an audit entry stays.
        feed_history_s: how long superseded events are kept for agents that were away.
        second_operator_above: how many certificates one operator may revoke at once by agent, join
            token, key or pattern; None for any number.
        heartbeat_s: how often an agent hears from an idle authority.
        attestation: what agents may enrol with besides join tokens.
        misuse: what is taken for misuse.
        renew_expired_within_s: how long after its expiry an agent's own certificate may be
            renewed by the proof of its key; 0 for never.
        max_batch: certificates in one request.
        max_inflight: certificates being issued at once; beyond it, agents must wait.
        root_algorithm: of a new root key.
        issuer_algorithm: of a new issuing key.
        root_lifetime_s: of a new root.
        issuer_lifetime_s: of a new issuing certificate.
    """

    trust_domain: TrustDomain
    data_dir: Path
    dns_names: tuple[str, ...] = ("localhost",)
    ip_addresses: tuple[IPv4Address | IPv6Address, ...] = (IPv4Address("127.0.0.1"),)
    status_url: str = ""
    workload_lifetime_s: int = 3600
    max_lifetime_s: int = 86_400
    agent_lifetime_s: int = 86_400
    operator_lifetime_s: int = 43_200
    server_lifetime_s: int = 86_400
    crl_validity_s: int = 3600
    crl_refresh_s: float | None = None
    crl_shards: int = 1
    crl_delta: bool = False
    crl_compact: bool = False
    ocsp_enabled: bool = True
    ocsp_validity_s: int = 3600
    ocsp_refresh_s: float | None = None
    ocsp_in_certificates: bool = False
    jwt_lifetime_s: int = 300
    jwt_key_lifetime_s: int = 7 * 86_400
    jwt_key_published_ahead_s: int = 3600
    jwt_key_algorithm: KeyAlgorithm = KeyAlgorithm.P256
    jwt_issuer: str = ""
    backdate_s: int = 60
    keep_expired_s: int = 30 * 86_400
    keep_audit_s: int = 400 * 86_400
    feed_history_s: int = 86_400
    second_operator_above: int | None = 100
    heartbeat_s: float = 3.0
    renew_expired_within_s: int = 0
    attestation: NodeAttestation = field(default_factory=NodeAttestation)
    misuse: Misuse = field(default_factory=Misuse)
    max_batch: int = 500
    max_inflight: int = 4000
    root_algorithm: KeyAlgorithm = KeyAlgorithm.P256
    issuer_algorithm: KeyAlgorithm = KeyAlgorithm.P256
    root_lifetime_s: int = 10 * 365 * 86_400
    issuer_lifetime_s: int = 3 * 365 * 86_400

    def __post_init__(self) -> None:
        for name in (
            "workload_lifetime_s",
            "max_lifetime_s",
            "agent_lifetime_s",
            "operator_lifetime_s",
            "server_lifetime_s",
            "crl_validity_s",
            "ocsp_validity_s",
            "jwt_lifetime_s",
            "jwt_key_lifetime_s",
            "heartbeat_s",
            "max_batch",
            "max_inflight",
        ):
            if getattr(self, name) <= 0:
                raise InvalidInput(f"{name} must be positive")
        shortest = shortest_record(timedelta(seconds=self.crl_validity_s)).total_seconds()
        for name in ("keep_expired_s", "keep_audit_s"):
            if getattr(self, name) < shortest:
                raise InvalidInput(f"{name} must be at least {shortest:.0f}")
        if not 1 <= self.crl_shards <= MAX_SHARDS:
            raise InvalidInput(f"crl_shards must be between 1 and {MAX_SHARDS}")
        if self.crl_shards > 1 and not self.status_url:
            # Lists of one issuer that do not name their shard hide each other.
            raise InvalidInput("crl_shards beyond 1 need a status_url")
        if (self.crl_delta or self.crl_compact) and not self.status_url:
            raise InvalidInput("crl_delta and crl_compact need a status_url")
        if self.status_url.endswith("/"):
            raise InvalidInput("status_url must not end with a slash")

    @classmethod
    def from_config(cls, config: ServerConfig, *, status_url: str | None = None) -> Self:
        """Take the settings from the configuration.

        Args:
            config: the configuration.
            status_url: the status port as others reach it; by default what the
                configuration says, which is wrong while it says port 0.
        """
        names, addresses = _names(config.names)
        certificates = config.certificates
        return cls(
            trust_domain=config.trust_domain,
            data_dir=config.data_dir,
            dns_names=names,
            ip_addresses=addresses,
            status_url=config.status_base_url() if status_url is None else status_url,
            workload_lifetime_s=_seconds(certificates.default_lifetime),
            max_lifetime_s=_seconds(certificates.max_lifetime),
            agent_lifetime_s=_seconds(certificates.agent_lifetime),
            operator_lifetime_s=_seconds(certificates.operator_lifetime),
            attestation=config.attestation,
            misuse=config.misuse,
            renew_expired_within_s=_seconds(config.agents.renew_expired_within),
            crl_validity_s=_seconds(config.crl_validity),
            crl_refresh_s=config.crl_refresh.total_seconds(),
            crl_shards=config.crl.shards,
            crl_delta=config.crl.delta,
            crl_compact=config.crl.compact,
            ocsp_enabled=config.ocsp.enabled,
            ocsp_validity_s=_seconds(config.ocsp_validity),
            ocsp_refresh_s=config.ocsp_refresh.total_seconds(),
            ocsp_in_certificates=config.ocsp.in_certificates,
            jwt_lifetime_s=_seconds(config.jwt.lifetime),
            jwt_key_lifetime_s=_seconds(config.jwt.key_lifetime),
            jwt_key_published_ahead_s=_seconds(config.jwt.key_published_ahead),
            jwt_key_algorithm=config.jwt.key,
            jwt_issuer=config.jwt.issuer or "",
            second_operator_above=config.revocation.above,
            keep_expired_s=_seconds(config.retention.expired),
            keep_audit_s=_seconds(config.retention.audit),
            root_algorithm=certificates.root_key,
            issuer_algorithm=certificates.issuer_key,
            root_lifetime_s=_seconds(certificates.root_lifetime),
            issuer_lifetime_s=_seconds(certificates.issuer_lifetime),
        )

    @property
    def database(self) -> Path:
        """The database file."""
        return self.data_dir / "authority.db"

    @property
    def refresh_s(self) -> float:
        """Seconds from one revocation list to the next when nothing changes."""
        return self.crl_validity_s / 8 if self.crl_refresh_s is None else self.crl_refresh_s

    @property
    def ocsp_refresh(self) -> float:
        """Seconds after which an OCSP response is signed anew."""
        return self.ocsp_validity_s / 2 if self.ocsp_refresh_s is None else self.ocsp_refresh_s

    @property
    def ocsp_url(self) -> str | None:
        """Where the OCSP responder is, if certificates name it."""
        named = self.ocsp_enabled and self.ocsp_in_certificates and self.status_url
        return f"{self.status_url}{OCSP_PATH}" if named else None

    def crl_url(self, issuer: str, shard: int) -> str | None:
        """Return where the list of an issuer (key id, hexadecimal) and shard is published."""
        return f"{self.status_url}{crl_path(issuer, shard)}" if self.status_url else None

    def delta_url(self, issuer: str, shard: int) -> str | None:
        """Return where the delta list of an issuer and shard is published, if it is."""
        return f"{self.status_url}{delta_path(issuer, shard)}" if self.crl_delta else None

    def compact_url(self, issuer: str, shard: int) -> str | None:
        """Return where the compact set of an issuer and shard is published, if it is."""
        return f"{self.status_url}{compact_path(issuer, shard)}" if self.crl_compact else None

    def issuer_url(self, issuer: str) -> str | None:
        """Return where an issuer's certificate is published."""
        return f"{self.status_url}{certificate_path(issuer)}" if self.status_url else None


def _seconds(duration: timedelta) -> int:
    return int(duration.total_seconds())


def _names(
    names: Iterable[str],
) -> tuple[tuple[str, ...], tuple[IPv4Address | IPv6Address, ...]]:
    """Tell DNS names from IP addresses."""
    dns_names: list[str] = []
    addresses: list[IPv4Address | IPv6Address] = []
    for name in names:
        try:
            addresses.append(ip_address(name))
        except ValueError:
            dns_names.append(name)
    return tuple(dns_names), tuple(addresses)


def crl_path(issuer: str, shard: int) -> str:
    """Return the path of a revocation list on the status port."""
    return f"/crl/{issuer}/{shard}.crl"


def delta_path(issuer: str, shard: int) -> str:
    """Return the path of a delta list on the status port."""
    return f"/crl/{issuer}/{shard}.delta.crl"


def compact_path(issuer: str, shard: int) -> str:
    """Return the path of a compact revoked set on the status port."""
    return f"/revoked/{issuer}/{shard}.set"


def certificate_path(issuer: str) -> str:
    """Return the path of an issuer's certificate on the status port."""
    return f"/ca/{issuer}.cer"
