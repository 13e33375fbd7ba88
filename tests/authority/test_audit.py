"""Audit entries as canonical JSON."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legation.authority.administration.audit import issuance_detail, render_entry, render_issuance
from legation.authority.model import IssuedRecord
from legation.clock import to_rfc3339
from legation.errors import InvalidInput

_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
_moments = st.integers(min_value=0, max_value=10**11).map(
    lambda tenths: datetime.fromtimestamp(tenths / 10, UTC)
)


@given(
    time=_moments,
    not_before=_moments,
    requester=_text,
    spiffe_id=_text,
    entry_id=st.none() | _text,
    serial=st.integers(min_value=1, max_value=(1 << 128) - 1),
    fingerprint=st.binary(min_size=32, max_size=32),
)
def test_the_quick_rendering_of_an_issuance_is_the_canonical_one(
    time: datetime,
    not_before: datetime,
    requester: str,
    spiffe_id: str,
    entry_id: str | None,
    serial: int,
    fingerprint: bytes,
) -> None:
    """Byte for byte, whatever the names hold."""
    record = IssuedRecord(
        serial=serial,
        spiffe_id=spiffe_id,
        profile="workload",
        issuer="ab" * 20,
        not_before=not_before,
        not_after=not_before + timedelta(hours=1),
        requester=requester,
        entry_id=entry_id,
        key_fingerprint=fingerprint,
        der=b"",
    )
    canonical = render_entry(
        time=time,
        actor=requester,
        action="certificate.issue",
        subject=spiffe_id,
        detail=issuance_detail(record),
    )
    assert render_issuance(record, time=to_rfc3339(time)) == canonical


def test_what_json_cannot_hold_is_refused() -> None:
    """An entry with a float in it is not rendered."""
    time = datetime(2031, 1, 1, tzinfo=UTC)
    with pytest.raises(InvalidInput, match="float"):
        render_entry(time=time, actor="a", action="b", subject="c", detail={"n": 0.5})
