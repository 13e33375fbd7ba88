"""The authority's configuration."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from legation.config.attestation import NodeAttestation
from legation.config.misuse import Misuse
from legation.config.values import (
    Address,
    CredentialName,
    Duration,
    DurationOrNone,
    ListenAddress,
    Log,
    Section,
    ServerName,
    TrustDomainName,
    render_duration,
)
from legation.pki.jwk import JWS_ALGORITHMS
from legation.pki.keys import KeyAlgorithm


def shortest_record(crl_validity: timedelta) -> timedelta:
    """Return the least that a certificate must stay on record after its end.

    A revoked one has to be on a list that is issued after its end (RFC 5280, section 3.3),
    and a day is what it takes a person to look into what happened.
    """
    return crl_validity + timedelta(days=1)


class Listen(Section):
    """Where the authority listens; port 0 takes a free one.

    Attributes:
        api: HTTPS: the operators' REST interface, enrolment, and agents.
        status: plain HTTP: CRLs, CA certificates and health.
        metrics: plain HTTP: `/metrics` for Prometheus, to whoever asks; off by default.
    """

    api: ListenAddress = Address("127.0.0.1", 8443)
    status: ListenAddress = Address("127.0.0.1", 8080)
    metrics: Annotated[ListenAddress | None, Field(examples=["127.0.0.1:8081"])] = None


class Keys(Section):
    """What protects the signing keys at rest; at most one of these.

    Attributes:
        kek_file: file with the key-encryption key.
        kek_credential: systemd credential with the key-encryption key.
        passphrase_file: file with a passphrase.
        passphrase_credential: systemd credential with a passphrase.
        passphrase_env: name of the environment variable that holds a passphrase.
    """

    kek_file: Path | None = None
    kek_credential: CredentialName | None = None
    passphrase_file: Path | None = None
    passphrase_credential: CredentialName | None = None
    passphrase_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,254}$")] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other")
        return self


class Certificates(Section):
    """Lifetimes and key algorithms.

    Attributes:
        default_lifetime: of a workload's certificate whose entry states none.
        max_lifetime: the most that an entry may ask for.
        agent_lifetime: of an agent's certificate; agents renew by themselves.
        operator_lifetime: of an operator's certificate.
        issuer_lifetime: of an issuing CA certificate.
        root_lifetime: of a root certificate.
        issuer_key: algorithm of the issuing keys.
        root_key: algorithm of the root key.
    """

    default_lifetime: Duration = timedelta(hours=1)
    max_lifetime: Duration = timedelta(hours=24)
    agent_lifetime: Duration = timedelta(hours=24)
    operator_lifetime: Duration = timedelta(days=30)
    issuer_lifetime: Duration = timedelta(days=365)
    root_lifetime: Duration = timedelta(days=3650)
    issuer_key: KeyAlgorithm = KeyAlgorithm.P256
    root_key: KeyAlgorithm = KeyAlgorithm.P384

    @model_validator(mode="after")
    def _nested(self) -> Self:
        """No certificate outlives its issuer (RFC 5280, section 6.1.3 (a)(2))."""
        order = (
            ("default_lifetime", "max_lifetime"),
            ("max_lifetime", "issuer_lifetime"),
            ("agent_lifetime", "issuer_lifetime"),
            ("operator_lifetime", "issuer_lifetime"),
            ("issuer_lifetime", "root_lifetime"),
        )
        for shorter, longer in order:
            if getattr(self, shorter) > getattr(self, longer):
                raise ValueError(f"{shorter} is longer than {longer}")
        return self


class Agents(Section):
    """How agents are treated.

    Attributes:
        renew_expired_within: how long after its expiry an agent may renew its own certificate by
            proving that it has the key. Off at 0: a credential that is over is over, and an agent
            that was away too long needs a join token.
    """

    renew_expired_within: DurationOrNone = timedelta()


class CRL(Section):
    """Revocation lists.

    Attributes:
        validity: from thisUpdate to nextUpdate; verifiers refuse everyone afterwards, so this
            bounds how long one may run on old news. As `certificates.default_lifetime` if None.
        refresh: how often a list is signed anew when nothing was revoked; an eighth of the
            validity if None.
        shards: number of lists that an issuer's certificates are spread over.
        delta: whether to publish delta lists, too: what has changed since an older list.
        compact: whether to publish compact sets of the revoked serial numbers, too.
    """

    validity: Duration | None = None
    refresh: Duration | None = None
    shards: Annotated[int, Field(ge=1, le=256)] = 1
    delta: bool = False
    compact: bool = False


class OCSP(Section):
    """Answers about single certificates, on the status port and for agents to staple.

    Attributes:
        enabled: whether such questions are answered.
        validity: from an answer's thisUpdate to its nextUpdate. As `crl.validity` if None.
        refresh: how old an answer gets before it is signed anew; half of the validity if None.
        in_certificates: whether certificates name the responder. It makes each of them larger,
            and some verifiers ask it during the handshake.
    """

    enabled: bool = True
    validity: Duration | None = None
    refresh: Duration | None = None
    in_certificates: bool = False


class JWT(Section):
    """JWT-SVIDs.

    Attributes:
        lifetime: of a token. Tokens are not revoked one by one, so it is short.
        key: algorithm of the signing keys; P-256, P-384 or RSA.
        key_lifetime: how long a key signs before the next one takes over.
        key_published_ahead: how long before it signs a key is in the trust bundle; at least
            as long as those who read the bundle keep a copy.
        issuer: the OIDC issuer that tokens name and discovery describes, an https URL that leads
            to the API's `/.well-known/openid-configuration`; tokens name none by default.
    """

    lifetime: Annotated[Duration, Field(ge=timedelta(seconds=10), le=timedelta(hours=1))] = (
        timedelta(minutes=5)
    )
    key: KeyAlgorithm = KeyAlgorithm.P256
    key_lifetime: Duration = timedelta(days=7)
    key_published_ahead: Duration = timedelta(hours=1)
    issuer: Annotated[str, Field(pattern=r"^https://[^/\s?#]+(/[^\s?#]*[^\s?#/])?$")] | None = None

    @model_validator(mode="after")
    def _can_sign(self) -> Self:
        if self.key not in JWS_ALGORITHMS:
            raise ValueError(f"keys of kind {self.key} cannot sign JWT-SVIDs")
        if self.key_published_ahead * 2 > self.key_lifetime:
            raise ValueError("key_published_ahead is more than half of key_lifetime")
        return self


class Revocation(Section):
    """What one operator alone may revoke.

    Attributes:
        second_operator_above: certificates that a revocation by agent, join token, key or pattern
            may hit before another administrator has to agree to it; `never` where there is only
            one. Recalling every workload of the trust domain asks for it at any number, and so
            does revoking an issuer.
    """

    second_operator_above: Annotated[int, Field(ge=0)] | Literal["never"] = 100

    @property
    def above(self) -> int | None:
        """The number, or None for `never`."""
        return None if self.second_operator_above == "never" else self.second_operator_above


class Retention(Section):
    """How long the store remembers; at least a day more than `crl.validity`.

    Attributes:
        expired: how long an expired certificate, revoked or not, stays in the inventory, and an
            expired join token in the list of tokens. An agent stays as long as one of its own.
        audit: how long an entry stays in the audit log. An entry says what was forgotten.
    """

    expired: Duration = timedelta(days=30)
    audit: Duration = timedelta(days=400)


class ServerConfig(Section):
    """The authority's configuration.

    Attributes:
        trust_domain: the trust domain that it certifies.
        data_dir: directory of the store.
        names: DNS names and IP addresses of the authority, for its serving certificate.
        status_url: base URL of the status port as others reach it; it goes into certificates.
    """

    trust_domain: TrustDomainName
    data_dir: Path = Path("/var/lib/legation/authority")
    names: Annotated[tuple[ServerName, ...], Field(min_length=1, max_length=64)] = (
        "localhost",
        "127.0.0.1",
    )
    status_url: Annotated[str, Field(pattern=r"^http://[^/\s?#]+(/[^\s?#]*)?$")] | None = None
    listen: Listen = Listen()
    keys: Keys = Keys()
    certificates: Certificates = Certificates()
    agents: Agents = Agents()
    attestation: NodeAttestation = NodeAttestation()
    crl: CRL = CRL()
    ocsp: OCSP = OCSP()
    jwt: JWT = JWT()
    revocation: Revocation = Revocation()
    retention: Retention = Retention()
    misuse: Misuse = Misuse()
    log: Log = Log()

    @property
    def crl_validity(self) -> timedelta:
        """From a list's thisUpdate to its nextUpdate."""
        return self.crl.validity or self.certificates.default_lifetime

    @property
    def crl_refresh(self) -> timedelta:
        """From one list to the next when nothing was revoked."""
        return self.crl.refresh or self.crl_validity / 8

    @property
    def ocsp_validity(self) -> timedelta:
        """From an OCSP response's thisUpdate to its nextUpdate."""
        return self.ocsp.validity or self.crl_validity

    @property
    def ocsp_refresh(self) -> timedelta:
        """How old an OCSP response gets before it is signed anew."""
        return self.ocsp.refresh or self.ocsp_validity / 2

    @model_validator(mode="after")
    def _ocsp_in_time(self) -> Self:
        if self.ocsp_refresh * 2 > self.ocsp_validity:
            raise ValueError("ocsp.refresh is more than half of ocsp.validity")
        if self.ocsp.in_certificates and not self.ocsp.enabled:
            raise ValueError("ocsp.in_certificates is of no use while ocsp.enabled is false")
        return self

    @model_validator(mode="after")
    def _lists_refreshed_in_time(self) -> Self:
        if self.crl_refresh * 2 > self.crl_validity:
            raise ValueError("crl.refresh is more than half of crl.validity")
        return self

    @model_validator(mode="after")
    def _remembered_long_enough(self) -> Self:
        shortest = shortest_record(self.crl_validity)
        for name in type(self.retention).model_fields:
            if getattr(self.retention, name) < shortest:
                raise ValueError(f"retention.{name} is less than {render_duration(shortest)}")
        return self

    def status_base_url(self, port: int | None = None) -> str:
        """Return the status port's base URL, without a slash at its end.

        Args:
            port: the real port, when the configured one is 0.
        """
        if self.status_url:
            return self.status_url.rstrip("/")
        host = self.listen.status.host
        # Nobody can connect to "all addresses"; the first name is how others call this host.
        reachable = self.names[0] if host in {"0.0.0.0", "::"} else host  # noqa: S104
        return f"http://{Address(reachable, self.listen.status.port or port or 0)}"
