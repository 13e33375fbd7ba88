"""Pages of revocations: whatever is read is held, and can be made again."""

from legation.wire.feed import PageRow, RevocationPage, Revocations

_ROWS = [
    PageRow(
        (0xABCDEF << 100) + number,
        f"spiffe://example.org/{number % 3}",
        "ab" * 20,
        ("superseded", "keyCompromise")[number % 2],
        1_900_000_000_000 + number,
        1_900_000_600_000 + number % 5 * 1000,
    )
    for number in range(20)
]
SEEDS = (
    RevocationPage.make(_ROWS).document,
    RevocationPage.make(_ROWS[:1]).document,
    b"legation-revocation-page-1\n{}\n",
)


def one_input(data: bytes) -> None:
    """Read, take up, and make again from what was read."""
    page = RevocationPage.read(data)
    rows = [page.row(row) for row in range(len(page))]
    assert page.serials() == [row.serial for row in rows]
    revocations = Revocations()
    revocations.adopt(page)
    assert len(revocations) == len(set(page.serials())) == len(list(revocations))
    for serial in page.serials():
        assert revocations[serial].serial == serial
    if all(row.fits() for row in rows):
        again = RevocationPage.make(rows)
        assert sorted(again.row(row) for row in range(len(again))) == sorted(rows)
