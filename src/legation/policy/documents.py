"""A document of any kind, read by what its ``kind`` says."""

from legation.policy.model import KIND, AuthorizationPolicy
from legation.policy.reading import kind_of
from legation.policy.staleness import STALENESS_KIND, StalenessPolicy

AnyPolicy = AuthorizationPolicy | StalenessPolicy

_READERS: dict[str, type[AuthorizationPolicy] | type[StalenessPolicy]] = {
    KIND: AuthorizationPolicy,
    STALENESS_KIND: StalenessPolicy,
}


def policy_from_document(document: object) -> AnyPolicy:
    """Read a policy of whichever kind from a mapping, as YAML or JSON gives it.

    Raises:
        InvalidPolicy: a field is missing, unknown or malformed, the kind among them; the
            message and `path` name it.
        PolicyTooLarge: more than what is accepted of something.
    """
    return _READERS[kind_of(document, _READERS)].from_document(document)
