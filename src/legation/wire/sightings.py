"""Which refusals tell something about the peer that was refused."""

from typing import Final

from legation.causes import Cause

# Of a peer that was refused for anything else, nothing is certain, not even its name: anybody
# can make up a certificate that no authority has signed.
TELLING: Final = frozenset(
    {
        Cause.CERTIFICATE_REVOKED,
        Cause.IDENTITY_BANNED,
        Cause.POLICY_DENIED,
        Cause.REVOCATION_DATA_STALE,
        Cause.CERTIFICATE_EXPIRED,
    }
)


def is_telling(cause: str) -> bool:
    """Tell whether a peer that was let in (no cause) or refused for `cause` is who it says."""
    return not cause or cause in TELLING
