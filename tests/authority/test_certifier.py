"""Certificates and their records."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legation.authority.issuing.certifier import agreed_subject, validity_around
from legation.authority.issuing.serials import BLOCK, SerialAllocator, shard_of
from legation.authority.store.sqlite import SQLiteStore
from legation.errors import InvalidInput, NotPermitted, Unavailable
from legation.pki import (
    CertificateRequest,
    SerialNumber,
    SpiffeID,
    Subject,
    build_request,
    generate_key,
)
from tests.support.authority import TRUST_DOMAIN, spiffe_id

NOW = datetime(2031, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
WITHIN = (NOW - timedelta(days=1), NOW + timedelta(days=1))


@given(
    now=st.integers(min_value=10**9, max_value=7 * 10**9).map(
        lambda tenths: datetime.fromtimestamp(tenths / 10 + 10**9, UTC)
    ),
    lifetime=st.integers(min_value=2, max_value=86_400),
    backdate=st.integers(min_value=0, max_value=60),
)
def test_a_validity_covers_its_lifetime_and_little_more(
    now: datetime, lifetime: int, backdate: int
) -> None:
    """At least the lifetime from now, at most a second more; backdated by a tenth at most."""
    within = (now - timedelta(days=10), now + timedelta(days=10))
    validity = validity_around(now, lifetime, backdate_s=backdate, within=within)
    assert (
        timedelta(0)
        <= validity.not_after - (now + timedelta(seconds=lifetime))
        <= timedelta(seconds=1)
    )
    earlier = now - validity.not_before
    assert timedelta(0) <= earlier < timedelta(seconds=min(backdate, lifetime / 10) + 2)


def test_a_certificate_never_outlives_its_issuer() -> None:
    """It ends with the issuer, begins no earlier, and after the end there is none."""
    within = (NOW, NOW + timedelta(minutes=5))
    validity = validity_around(NOW, 3600, backdate_s=60, within=within)
    assert validity.not_after == within[1].replace(microsecond=0)
    assert validity.not_before == within[0].replace(microsecond=0)
    with pytest.raises(Unavailable, match=r"ended at 2031-03-01T12:05:00\.250Z"):
        validity_around(NOW + timedelta(hours=1), 3600, backdate_s=60, within=within)


def _request(*, name: SpiffeID | None = None, dns: tuple[str, ...] = ()) -> CertificateRequest:
    return CertificateRequest.from_der(build_request(generate_key(), spiffe_id=name, dns_names=dns))


def test_a_request_may_be_silent_or_ask_for_what_it_gets() -> None:
    """Nothing, the same SPIFFE ID, or some of the DNS names."""
    subject = Subject(spiffe_id=spiffe_id("/api"), dns_names=("api.example", "www.example"))
    for request in (
        _request(),
        _request(name=spiffe_id("/api")),
        _request(dns=("www.example",)),
        _request(name=spiffe_id("/api"), dns=("www.example", "api.example")),
    ):
        assert agreed_subject(request, subject, trust_domain=TRUST_DOMAIN) == subject


@pytest.mark.parametrize(
    ("request_names", "message"),
    [
        ({"name": spiffe_id("/admin")}, "asks for spiffe://example.org/admin, its identity is"),
        ({"dns": ("api.example", "bank.example")}, "asks for the DNS name bank.example"),
    ],
)
def test_a_request_for_more_is_refused(request_names: dict[str, object], message: str) -> None:
    """Another identity or another DNS name than the entry's."""
    subject = Subject(spiffe_id=spiffe_id("/api"), dns_names=("api.example",))
    with pytest.raises(InvalidInput, match=message):
        agreed_subject(_request(**request_names), subject, trust_domain=TRUST_DOMAIN)  # type: ignore[arg-type]


def test_another_trust_domain_is_not_ours_to_certify() -> None:
    """Whatever the request says."""
    subject = Subject(spiffe_id=SpiffeID.parse("spiffe://other.example/api"))
    with pytest.raises(NotPermitted, match=r"not in the trust domain example\.org"):
        agreed_subject(_request(), subject, trust_domain=TRUST_DOMAIN)


async def test_serial_numbers_never_repeat_across_restarts(tmp_path: Path) -> None:
    """Concurrent callers, several blocks, three processes: every index is new."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for _ in range(3):
        store = await SQLiteStore.open(tmp_path / "a.db")
        allocator = SerialAllocator(store, "aa", shards=3)
        batches = await asyncio.gather(*(allocator.allocate(100) for _ in range(140)))
        await store.close()  # what is left of the blocks is lost, as in a crash
        for batch in batches:
            total += len(batch)
            for serial in batch:
                number = SerialNumber.from_int(serial)
                assert shard_of(serial) == number.shard
                seen.add((number.shard, number.index))
    assert total == len(seen) == 42_000
    assert {shard for shard, _ in seen} == {0, 1, 2}
    assert max(index for _, index in seen) < 3 * 2 * BLOCK
