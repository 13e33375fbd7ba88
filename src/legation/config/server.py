"""The authority's configuration."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from legation.config.values import (
    Address,
    CredentialName,
    Duration,
    ListenAddress,
    Log,
    Section,
    ServerName,
    TrustDomainName,
)
from legation.pki.keys import KeyAlgorithm


class Listen(Section):
    """Where the authority listens; port 0 takes a free one.

    Attributes:
        api: HTTPS, the operators' REST interface and enrolment.
        agents: gRPC over mutual TLS.
        status: plain HTTP: CRLs, CA certificates and health.
    """

    api: ListenAddress = Address("127.0.0.1", 8443)
    agents: ListenAddress = Address("127.0.0.1", 8444)
    status: ListenAddress = Address("127.0.0.1", 8080)


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


class CRL(Section):
    """Revocation lists.

    Attributes:
        validity: from thisUpdate to nextUpdate; verifiers refuse everyone afterwards, so this
            bounds how long one may run on old news. As `certificates.default_lifetime` if None.
        refresh: how often a list is signed anew when nothing was revoked; an eighth of the
            validity if None.
        shards: number of lists that an issuer's certificates are spread over.
    """

    validity: Duration | None = None
    refresh: Duration | None = None
    shards: Annotated[int, Field(ge=1, le=256)] = 1


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
    crl: CRL = CRL()
    log: Log = Log()

    @property
    def crl_validity(self) -> timedelta:
        """From a list's thisUpdate to its nextUpdate."""
        return self.crl.validity or self.certificates.default_lifetime

    @property
    def crl_refresh(self) -> timedelta:
        """From one list to the next when nothing was revoked."""
        return self.crl.refresh or self.crl_validity / 8

    @model_validator(mode="after")
    def _lists_refreshed_in_time(self) -> Self:
        if self.crl_refresh * 2 > self.crl_validity:
            raise ValueError("crl.refresh is more than half of crl.validity")
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
