"""What an agent shows to enrol."""

from legation.agent.evidence.evidence import Evidence, Occasion
from legation.agent.evidence.join_token import JoinToken
from legation.agent.evidence.oidc import CommandToken, GitHubToken, GivenToken, OIDCToken
from legation.agent.evidence.x509 import X509Possession

__all__ = [
    "CommandToken",
    "Evidence",
    "GitHubToken",
    "GivenToken",
    "JoinToken",
    "OIDCToken",
    "Occasion",
    "X509Possession",
]
