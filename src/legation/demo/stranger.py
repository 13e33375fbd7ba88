"""Peers that must not be served."""

import os
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from legation.pki import (
    ROOT,
    WORKLOAD,
    Issuer,
    SpiffeID,
    Subject,
    Validity,
    certificates_to_pem,
    generate_key,
    issue,
    private_key_to_pem,
    self_sign,
)


def credential_of_another_authority(spiffe_id: str, path: Path, *, now: datetime) -> Path:
    """Forge `spiffe_id` with an authority of our own making; return the credential file."""
    validity = Validity(not_before=now - timedelta(minutes=1), not_after=now + timedelta(hours=1))
    root_key = generate_key()
    root = self_sign(
        root_key,
        ROOT,
        subject=Subject(common_name="another authority"),
        serial=1,
        validity=validity,
    )
    key = generate_key()
    leaf = issue(
        Issuer(certificate=root.certificate, private_key=root_key),
        WORKLOAD,
        subject=Subject(spiffe_id=SpiffeID.parse(spiffe_id)),
        public_key=key.public_key(),
        serial=2,
        validity=validity,
    )
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(private_key_to_pem(key) + certificates_to_pem([leaf.certificate]))
    return path


def remaining_s(certificate: dict[str, Any], now: datetime) -> float:
    """Return how many seconds a certificate, as the `ssl` module shows it, has left."""
    if "notAfter" not in certificate:
        return 0.0
    end = datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate["notAfter"]), UTC)
    return (end - now).total_seconds()
