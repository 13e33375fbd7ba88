"""Pages of revocations: what is made is read back, and nothing else is read."""

import zlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from legation.errors import InvalidInput, LimitExceeded, NotAuthenticated
from legation.pki.serials import SerialNumber
from legation.wire.canonical import canonical_json, parse_json
from legation.wire.feed import (
    FeedEvent,
    FeedSigner,
    IssuerName,
    Kind,
    PageRow,
    Revocation,
    RevocationPage,
    open_page,
)
from legation.wire.feed.page_outline import MAX_ROWS
from legation.wire.feed.revocation_page import to_ms, to_ms_up

NOW = datetime(2031, 3, 1, 12, tzinfo=UTC)
SIGNER = FeedSigner(ec.derive_private_key(1, ec.SECP256R1()))
OTHER = FeedSigner(ec.derive_private_key(2, ec.SECP256R1()))
MAGIC = b"legation-revocation-page-1\n"

rows = st.builds(
    PageRow,
    serial=st.integers(0, (1 << 128) - 1) | st.integers(0, 9),
    spiffe_id=st.sampled_from(["", "spiffe://example.org/a", "spiffe://example.org/b", 'ö"\\ x']),
    issuer=st.sampled_from(["aa", "bb"]),
    reason=st.sampled_from(["superseded", "keyCompromise"]),
    revoked_ms=st.integers(0, 253_402_300_799_999) | st.just(to_ms(NOW)),
    expires_ms=st.integers(0, 253_402_300_799_999)
    | st.integers(0, 9).map(lambda day: to_ms(NOW) + day * 86_400_000),
)


def many(count: int) -> list[PageRow]:
    return [
        PageRow(
            SerialNumber.generate(shard=number % 16, index=(1 << 40) + number).to_int(),
            f"spiffe://example.org/ns/bench/service-{number}",
            "ab" * 20,
            "superseded",
            to_ms(NOW) + number % 10_000,
            to_ms(NOW) + 3_600_000 + number % 600 * 1000,
        )
        for number in range(count)
    ]


def changed(page: RevocationPage, **fields: object) -> bytes:
    """Return the document with another header."""
    header, _, content = page.document[len(MAGIC) :].partition(b"\n")
    value = parse_json(header, limit=1 << 20)
    assert isinstance(value, dict)
    return MAGIC + canonical_json({**value, **fields}) + b"\n" + content


@given(st.lists(rows, min_size=1, max_size=30))
def test_what_is_made_is_read_back(given_rows: list[PageRow]) -> None:
    """Every row exactly, by the end of its certificate; the same rows give the same page."""
    page = RevocationPage.make(given_rows)
    ordered = sorted(given_rows, key=lambda row: (row.expires_ms, row.serial))
    ends = [row.expires_ms for row in ordered]
    assert [page.expires_ms(row) for row in range(len(page))] == ends
    found = [page.row(row) for row in range(len(page))]
    assert sorted(found) == sorted(given_rows)
    assert page.serials() == [row.serial for row in found]
    assert [page.serial(row) for row in range(len(page))] == page.serials()
    assert [page.issuer(row) for row in range(len(page))] == [row.issuer for row in found]
    assert page.newest_ms() == max(row.revoked_ms for row in given_rows)
    assert RevocationPage.make(found).document == page.document


def test_a_revocation_of_an_event_is_the_same_in_a_page() -> None:
    """To the millisecond, which is what an event says."""
    revocation = Revocation(
        serial=SerialNumber.generate(shard=3, index=9).to_int(),
        spiffe_id="spiffe://example.org/api",
        issuer="ab12",
        reason="keyCompromise",
        revoked_at=NOW + timedelta(milliseconds=1),
        expires_at=datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC),
    )
    row = PageRow.of(Revocation.from_value(revocation.to_value()))
    assert row is not None
    assert RevocationPage.make([row]).revocation(0) == revocation


@pytest.mark.parametrize(
    "fields",
    [
        {"reason": "certificateHold"},
        {"signs_as": IssuerName(name="CN=x", key_id="ab")},
        {"serial": 1 << 128},
        {"spiffe_id": "a\nb"},
        {"spiffe_id": "x" * 2049},
        {"issuer": "é"},
        {"expires_at": datetime(1969, 12, 31, tzinfo=UTC)},
    ],
)
def test_what_does_not_fit_stays_an_event(fields: dict[str, object]) -> None:
    """A hold can be taken back, an issuer takes others with it, and the rest is out of bounds."""
    revocation = Revocation(
        serial=1, spiffe_id="x", issuer="aa", reason="superseded", revoked_at=NOW, expires_at=NOW
    )
    assert PageRow.of(revocation) is not None
    assert PageRow.of(replace(revocation, **fields)) is None  # type: ignore[arg-type]


def test_a_full_page_takes_some_twenty_octets_a_row() -> None:
    """Eight of them are the random part of the serial number, which nothing makes shorter."""
    page = RevocationPage.make(many(MAX_ROWS))
    assert len(page.document) < 24 * MAX_ROWS
    for wrong in ([], many(MAX_ROWS + 1)):
        with pytest.raises(LimitExceeded, match="has 1 to 4096 rows"):
            RevocationPage.make(wrong)


def test_too_much_text_is_no_page() -> None:
    """Whoever makes pages divides the rows."""
    long = [row._replace(spiffe_id=f"{row.serial}{'x' * 1000}") for row in many(1100)]
    with pytest.raises(LimitExceeded, match="names"):
        RevocationPage.make(long)
    issuers = [row._replace(issuer=f"{row.serial}") for row in many(300)]
    with pytest.raises(LimitExceeded, match="issuers and reasons"):
        RevocationPage.make(issuers)


def test_only_what_a_feed_key_has_signed_is_opened() -> None:
    """One changed octet, or another signer, and nothing is read; nor is a page an event."""
    document = RevocationPage.make(many(3)).document
    signature = SIGNER.sign_document(document)
    page = open_page(document, signature, [OTHER.public_key, SIGNER.public_key])
    assert (len(page), page.signature) == (3, signature)
    for wrong, keys in (
        (document[:-1] + b"\0", [SIGNER.public_key]),
        (document, [OTHER.public_key]),
    ):
        with pytest.raises(NotAuthenticated, match="no known feed key"):
            open_page(wrong, signature, keys)
    signed = SIGNER.sign(FeedEvent(revision=1, time_ms=1, kind=Kind.BAN, key="x", value=None))
    with pytest.raises(InvalidInput, match="not a page of revocations of this version"):
        open_page(signed.body, signed.signature, [SIGNER.public_key])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rows": 0}, "1 to 4096 rows"),
        ({"rows": 4097}, "1 to 4096 rows"),
        ({"rows": 1 << 50}, "1 to 4096 rows"),
        ({"rows": 5}, "octets that has"),
        ({"rows": True}, "not the header"),
        ({"surprise": 1}, "not the header"),
        ({"columns": []}, "columns that this version does not know"),
        ({"columns": [[0, 1, 8]] * 9}, "columns that this version does not know"),
        ({"columns": [[0, 1, 3]] * 8}, "columns that this version does not know"),
        ({"columns": [[0, 1]] * 8}, "not the header"),
        ({"columns": [[0, -1, 8]] * 8}, "not the header"),
        ({"identities": [4097, 1, 1]}, "too many names"),
        ({"identities": [1, 1 << 40, 1]}, "too many names"),
        ({"identities": [1, 1, 1 << 40]}, "too many names"),
        ({"issuers": []}, "not the header"),
        ({"issuers": ["x"] * 257}, "not the header"),
        ({"issuers": [1]}, "not the header"),
        ({"reasons": ["x" * 101]}, "not the header"),
        ({"reasons": ["certificateHold"]}, "a hold, which can be taken back"),
    ],
)
def test_a_header_that_lies_is_refused(fields: dict[str, object], message: str) -> None:
    """Before anything is made of what it promises."""
    page = RevocationPage.make(many(4))
    assert RevocationPage.read(changed(page)).document == page.document
    with pytest.raises((InvalidInput, LimitExceeded), match=message):
        RevocationPage.read(changed(page, **fields))


def test_columns_that_lie_are_refused() -> None:
    """Places beyond the lists, numbers beyond a serial number's parts, rows out of order."""
    page = RevocationPage.make(many(4))
    header = parse_json(page.document[len(MAGIC) :].partition(b"\n")[0], limit=1 << 20)
    assert isinstance(header, dict)
    for column in range(1, 8):
        columns = [list(each) for each in header["columns"]]
        columns[column][0] = 1 << 52
        with pytest.raises(InvalidInput, match="number that is too large"):
            RevocationPage.read(changed(page, columns=columns))
    backwards = page.document[:-8] + page.document[-8:][::-1]
    with pytest.raises(InvalidInput, match="not in their order"):
        RevocationPage.read(backwards)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (zlib.compress(b"x" * (1 << 22)), "not as many as it says"),
        (zlib.compress(b"x") + b"more", "not as many as it says"),
        (zlib.compress(b"x\ny"), "not as many as it says"),
        (zlib.compress(b"x")[:-1], "not as many as it says"),
        (zlib.compress(b"\xff"), "cannot be read"),
        (b"no names at all", "cannot be read"),
    ],
)
def test_names_that_lie_are_refused(names: bytes, message: str) -> None:
    """Nothing is inflated to more than the header says, and that has a limit."""
    page = RevocationPage.make(row._replace(spiffe_id="x") for row in many(2))
    head, _, content = page.document[len(MAGIC) :].partition(b"\n")
    value = parse_json(head, limit=1 << 20)
    assert isinstance(value, dict)
    count, size, packed = value["identities"]
    value["identities"] = [count, size, len(names)]
    document = MAGIC + canonical_json(value) + b"\n" + names + content[packed:]
    with pytest.raises(InvalidInput, match=message):
        RevocationPage.read(document)


def test_an_outline_has_its_bounds() -> None:
    """Too large a document, one without an end of its header, or of a later version."""
    page = RevocationPage.make(many(1))
    with pytest.raises(LimitExceeded, match="has at most 2097152 bytes"):
        RevocationPage.read(page.document + bytes(2 << 20))
    with pytest.raises(InvalidInput, match="without its columns"):
        RevocationPage.read(MAGIC + b"{" + b" " * (200 << 10))
    with pytest.raises(InvalidInput, match="of this version"):
        RevocationPage.read(page.document.replace(b"page-1", b"page-2", 1))
    for short in (page.document[:-1], page.document + b"\0"):
        with pytest.raises(InvalidInput, match="octets that has"):
            RevocationPage.read(short)


def test_moments_are_rounded_to_the_safe_side() -> None:
    """A certificate is over when its last millisecond is."""
    moment = NOW + timedelta(microseconds=1)
    assert (to_ms(moment), to_ms_up(moment)) == (to_ms(NOW), to_ms(NOW) + 1)
    assert to_ms_up(NOW) == to_ms(NOW)
