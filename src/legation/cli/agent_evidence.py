"""From an agent's configuration to what it shows to enrol."""

import os
from collections.abc import Mapping

from legation.agent.evidence import (
    CommandToken,
    Evidence,
    GitHubToken,
    GivenToken,
    JoinToken,
    OIDCToken,
    X509Possession,
)
from legation.agent.evidence.oidc import TokenSource
from legation.agent.private_files import read_bounded
from legation.config import AgentConfig, read_join_token, read_secret
from legation.config.attestation import Enrolment
from legation.errors import NotFound
from legation.pki import certificates_from_pem, private_key_from_pem
from legation.wire.evidence import JOIN_TOKEN, X509

_MAX_CHAIN = 64 * 1024
GITHUB_URL = "ACTIONS_ID_TOKEN_REQUEST_URL"
GITHUB_TOKEN = "ACTIONS_ID_TOKEN_REQUEST_TOKEN"  # noqa: S105 - a name, not a secret


def evidence_of(config: AgentConfig, *, environment: Mapping[str, str] | None = None) -> Evidence:
    """Return what the agent shows; secrets are read now, tokens are fetched when they are due.

    Raises:
        NotFound: a token, file or variable is not there.
        InvalidInput: a file is not what it should be.
    """
    enrolment = config.enrolment
    variables = os.environ if environment is None else environment  # noqa: TID251 - read here
    if enrolment.kind == JOIN_TOKEN:
        return _join_token(config, variables)
    if enrolment.kind == X509:
        assert enrolment.certificate_file and enrolment.key_file  # noqa: S101, PT018 - checked by the model
        return X509Possession(
            chain=tuple(
                certificates_from_pem(read_bounded(enrolment.certificate_file, limit=_MAX_CHAIN))
            ),
            key=private_key_from_pem(read_secret(enrolment.key_file)),
        )
    return OIDCToken(source=_token_source(enrolment, variables))


def _join_token(config: AgentConfig, environment: Mapping[str, str]) -> JoinToken:
    token = read_join_token(config, environment=environment)
    if token is None:
        raise NotFound(
            f"this agent has not joined yet ({config.data_dir} is empty), and has no join token",
            remedy="make one with `legation token create NAME`, and give --join-token-file",
        )
    return JoinToken(token)


def _token_source(enrolment: Enrolment, environment: Mapping[str, str]) -> TokenSource:
    if enrolment.token_file is not None:
        return GivenToken(read_secret(enrolment.token_file).decode("utf-8", "replace"))
    if enrolment.token_command:
        return CommandToken(argv=enrolment.token_command)
    if enrolment.token_variable is not None:
        return GivenToken(_variable(environment, enrolment.token_variable))
    remedy = "give the job `permissions: id-token: write`"
    return GitHubToken(
        url=_variable(environment, GITHUB_URL, remedy=remedy),
        bearer=_variable(environment, GITHUB_TOKEN, remedy=remedy),
        audience=enrolment.audience or "",
    )


def _variable(environment: Mapping[str, str], name: str, *, remedy: str | None = None) -> str:
    value = environment.get(name)
    if not value:
        raise NotFound(f"the environment variable {name} is not set", remedy=remedy)
    return value
