"""How nodes and workloads prove what they are: the tables of both configurations."""

import re
import string
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from legation.config.values import Duration, Section

# Between two values of a name template. An encoded value never holds it, so that no two
# combinations of values make the same name.
SEPARATOR = "__"
_PLAIN = re.compile(r"[A-Za-z0-9._-]*\Z", re.ASCII)
_FACT = re.compile(r"[A-Za-z0-9_./:-]{1,128}\Z", re.ASCII)
X509_FACTS = ("common_name", "organization", "dns_name", "serial", "key_fingerprint")


def template_parts(template: str) -> tuple[tuple[str, str | None], ...]:
    """Split ``"ci__{repository}"`` into text and the name of the fact that follows it.

    Raises:
        ValueError: not a template, or one that could give two nodes the same name.
    """
    parts: list[tuple[str, str | None]] = []
    for text, fact, form, conversion in string.Formatter().parse(template):
        if not _PLAIN.match(text):
            raise ValueError("a name has letters, digits, dots, dashes and underscores only")
        if form or conversion or (fact is not None and not _FACT.match(fact)):
            raise ValueError('a placeholder is the name of a fact in braces, "{repository}"')
        if parts and parts[-1][1] is not None and fact is not None and SEPARATOR not in text:
            raise ValueError(f'two placeholders need "{SEPARATOR}" between them')
        parts.append((text, fact))
    if not parts:
        raise ValueError("a name is not empty")
    return tuple(parts)


def _template(text: str) -> str:
    template_parts(text)
    return text


def _issuer(text: str) -> str:
    url = urlsplit(text)
    if url.scheme != "https" or not url.hostname or url.query or url.fragment or url.username:
        raise ValueError("an issuer is an https URL without query and fragment")
    return text


_NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"
_PATTERN = r"^[A-Za-z0-9._*-]{1,128}$"
NameTemplate = Annotated[str, Field(max_length=256), AfterValidator(_template)]
AgentPatterns = Annotated[
    tuple[Annotated[str, Field(pattern=_PATTERN)], ...], Field(min_length=1, max_length=64)
]
Allowed = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=512)], ...],
    Field(min_length=1, max_length=256),
]
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]


class X509Evidence(Section):
    """Nodes that hold a certificate of another authority, of a data centre or a maker.

    Attributes:
        name: of this table, as the audit log has it.
        roots_file: PEM file with the CA certificates that are trusted for it.
        crl_files: their revocation lists, PEM or DER; with any, each certificate must be covered.
        agent: name of the agent, made of the certificate's facts: `common_name`, `organization`,
            `dns_name`, `serial`, `key_fingerprint`. For example `"node__{common_name}"`.
        allowed_agents: names that may come of it; `*` stands for anything.
        require: facts and the values that they must have; `*` stands for anything.
    """

    name: Annotated[str, Field(pattern=_NAME)]
    roots_file: Path
    crl_files: tuple[Path, ...] = ()
    agent: NameTemplate
    allowed_agents: AgentPatterns
    require: Mapping[str, Allowed] = {}

    @model_validator(mode="after")
    def _known_facts(self) -> Self:
        named = {fact for _, fact in template_parts(self.agent) if fact} | set(self.require)
        if unknown := sorted(named - set(X509_FACTS)):
            known = ", ".join(X509_FACTS)
            raise ValueError(f"a certificate has no fact {unknown[0]!a}; known: {known}")
        return self


class OIDCEvidence(Section):
    """Nodes that hold a token of an OpenID Connect issuer, such as a CI system's.

    Attributes:
        name: of this table, as the audit log has it.
        issuer: the issuer, an https URL, exactly as its tokens say it.
        audience: that tokens must be meant for; choose one that nothing else accepts.
        require: claims and the values that they must have; `*` stands for anything. A public
            issuer signs for everyone, so at least one is needed.
        agent: name of the agent, made of claims. For example `"ci__{repository}__{run_id}"`.
        allowed_agents: names that may come of it; `*` stands for anything.
        algorithms: that tokens may be signed with.
        roots_file: PEM file to check the issuer's TLS certificate against; the system's roots
            when None.
        skew: how far the issuer's clock and ours may differ.
        max_lifetime: the longest that a token may be valid.
    """

    name: Annotated[str, Field(pattern=_NAME)]
    issuer: Annotated[str, Field(max_length=512), AfterValidator(_issuer)]
    audience: Annotated[str, Field(min_length=1, max_length=512)]
    require: Annotated[Mapping[str, Allowed], Field(min_length=1)]
    agent: NameTemplate
    allowed_agents: AgentPatterns
    algorithms: Annotated[tuple[Algorithm, ...], Field(min_length=1)] = ("RS256", "ES256")
    roots_file: Path | None = None
    skew: Duration = timedelta(seconds=60)
    max_lifetime: Duration = timedelta(hours=1)


class NodeAttestation(Section):
    """What agents may enrol with besides join tokens; any number of tables of each kind.

    Attributes:
        x509: tables `[[attestation.x509]]`, see X509Evidence.
        oidc: tables `[[attestation.oidc]]`, see OIDCEvidence.
    """

    x509: tuple[X509Evidence, ...] = ()
    oidc: tuple[OIDCEvidence, ...] = ()

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [table.name for table in self.x509] + [table.name for table in self.oidc]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two tables are called {min(twice)!a}")
        return self


class SystemdAttestation(Section):
    """Units of systemd: selectors `systemd:id` and `systemd:fragment_path`.

    Attributes:
        enabled: whether processes are looked up.
        bus: socket of the system bus; without it there is no `systemd:fragment_path`.
        time_limit: how long an answer may take.
    """

    enabled: bool = False
    bus: Path = Path("/run/dbus/system_bus_socket")
    time_limit: Duration = timedelta(seconds=2)


class DockerAttestation(Section):
    """Containers of Docker: selectors `docker:label`, `docker:image_id` and more.

    Attributes:
        enabled: whether processes are looked up.
        socket: of the engine.
        time_limit: how long an answer may take.
    """

    enabled: bool = False
    socket: Path = Path("/run/docker.sock")
    time_limit: Duration = timedelta(seconds=2)


class ContainerdAttestation(Section):
    """Containers of containerd: selectors `containerd:label`, `containerd:image` and more.

    Attributes:
        enabled: whether processes are looked up.
        socket: of the engine.
        namespaces: of the engine, whose containers count; Kubernetes uses `k8s.io`.
        time_limit: how long an answer may take.
    """

    enabled: bool = False
    socket: Path = Path("/run/containerd/containerd.sock")
    namespaces: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9]+([._-][A-Za-z0-9]+)*$")], ...],
        Field(min_length=1, max_length=16),
    ] = ("k8s.io",)
    time_limit: Duration = timedelta(seconds=2)


class WorkloadAttestation(Section):
    """Whom the agent asks about the processes on its socket, besides the kernel."""

    systemd: SystemdAttestation = SystemdAttestation()
    docker: DockerAttestation = DockerAttestation()
    containerd: ContainerdAttestation = ContainerdAttestation()


class Enrolment(Section):
    """What the agent enrols with; used once, at its first start.

    Attributes:
        kind: `join-token`, `x509` or `oidc`.
        certificate_file: x509: PEM file with the node's certificate and its intermediates.
        key_file: x509: PEM file with the certificate's private key.
        token_file: oidc: file with the token.
        token_variable: oidc: environment variable with the token, as GitLab CI sets it.
        token_command: oidc: program, and its arguments, that prints the token.
        github: oidc: ask GitHub Actions for the token; needs `permissions: id-token: write`.
        audience: oidc: what to ask GitHub Actions for, as the authority's `audience` says.
    """

    kind: Literal["join-token", "x509", "oidc"] = "join-token"
    certificate_file: Path | None = None
    key_file: Path | None = None
    token_file: Path | None = None
    token_variable: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,254}$")] | None = None
    token_command: tuple[str, ...] = ()
    github: bool = False
    audience: Annotated[str, Field(min_length=1, max_length=512)] | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        sources = (self.token_file, self.token_variable, self.token_command, self.github)
        given = sum(map(bool, sources))
        if self.kind == "x509" and not (self.certificate_file and self.key_file):
            raise ValueError("x509 needs certificate_file and key_file")
        if self.kind == "oidc" and given != 1:
            raise ValueError(
                "oidc needs exactly one of token_file, token_variable, token_command and github"
            )
        if self.github and not self.audience:
            raise ValueError("github needs an audience")
        return self
