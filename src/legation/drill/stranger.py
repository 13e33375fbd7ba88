"""A peer of another authority, made on the spot, that claims to be a decoy."""

from datetime import datetime, timedelta

from legation.drill.connection import Identity
from legation.pki import (
    ROOT,
    WORKLOAD,
    Issuer,
    SpiffeID,
    Subject,
    Validity,
    generate_key,
    issue,
    self_sign,
)

_BEFORE, _AFTER = timedelta(minutes=5), timedelta(hours=1)


def stranger(spiffe_id: SpiffeID, *, at: datetime) -> Identity:
    """Certify `spiffe_id` by an authority that nobody trusts."""
    validity = Validity(not_before=at - _BEFORE, not_after=at + _AFTER)
    root_key, key = generate_key(), generate_key()
    root = self_sign(
        root_key,
        ROOT,
        subject=Subject(common_name="another authority"),
        serial=1,
        validity=validity,
    ).certificate
    leaf = issue(
        Issuer(certificate=root, private_key=root_key),
        WORKLOAD,
        subject=Subject(spiffe_id=spiffe_id),
        public_key=key.public_key(),
        serial=2,
        validity=validity,
    ).certificate
    return Identity(chain=(leaf,), private_key=key)
