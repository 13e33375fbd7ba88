from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legation.errors import InvalidInput
from legation.pki import SpiffeID, TrustDomain

SEGMENTS = st.text("abcXYZ019._-", min_size=1, max_size=12).filter(lambda s: s not in {".", ".."})


def test_a_trailing_newline_is_no_part_of_a_trust_domain():
    """A trust domain that ends in a newline is refused, in every way of writing it."""
    for text in ("example.org\n", "example.org\r", "spiffe://example.org\n"):
        with pytest.raises(InvalidInput, match="is not a trust domain"):
            TrustDomain.parse(text)
    with pytest.raises(InvalidInput):
        SpiffeID.parse("spiffe://example.org\n/api")
    with pytest.raises(InvalidInput):
        SpiffeID.parse("spiffe://example.org/api\n")


def test_equal_ids_have_equal_hashes_and_never_equal_text():
    """Equality and hash agree, and an ID equals no string, so neither misleads a set."""
    one = SpiffeID.parse("spiffe://example.org/api")
    other = SpiffeID(TrustDomain("example.org"), "/api")
    assert one == other
    assert hash(one) == hash(other)
    assert one != "spiffe://example.org/api"
    assert len({one, other, str(one)}) == 2
    assert one != SpiffeID.parse("spiffe://example.org/API")


@given(st.lists(SEGMENTS, max_size=6), st.text("abc019._-", min_size=1, max_size=30))
def test_text_and_value_are_a_round_trip(segments, domain):
    """Every valid ID is rendered to text that reads back as the same ID."""
    spiffe_id = SpiffeID(TrustDomain(domain), "".join(f"/{segment}" for segment in segments))
    assert SpiffeID.parse(str(spiffe_id)) == spiffe_id
    assert TrustDomain.parse(str(spiffe_id.trust_domain.id)) == spiffe_id.trust_domain
    assert str(spiffe_id.trust_domain) == domain


@given(st.text(max_size=60))
def test_no_text_makes_the_parser_fail_otherwise(text):
    """Any text is an ID that reads back as itself, or raises InvalidInput."""
    for candidate in (text, "spiffe://" + text, "spiffe://example.org/" + text):
        with suppress(InvalidInput):
            assert str(SpiffeID.parse(candidate)) == candidate


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.org/api",
        "https://example.org/api",
        "SPIFFE://example.org/api",
        "spiffe://",
        "spiffe:///api",
        "spiffe://Example.org/api",
        "spiffe://example.org:8443/api",
        "spiffe://user@example.org/api",
        "spiffe://example.org/api/",
        "spiffe://example.org/",
        "spiffe://example.org//api",
        "spiffe://example.org/./api",
        "spiffe://example.org/../api",
        "spiffe://example.org/a%20b",
        "spiffe://example.org/api?x=1",
        "spiffe://example.org/api#x",
        "spiffe://exämple.org/api",
        "spiffe://example.org/äpi",
        "spiffe://" + "a" * 256 + "/api",
        "spiffe://example.org/" + "a" * 2048,
    ],
)
def test_what_the_standard_forbids_is_refused(text):
    """Each rule of SPIFFE-ID sections 2.1 to 2.4 is enforced."""
    with pytest.raises(InvalidInput):
        SpiffeID.parse(text)


def test_an_id_cannot_be_built_invalid():
    """The constructor checks as the parser does."""
    domain = TrustDomain("example.org")
    with pytest.raises(InvalidInput, match="starts with a slash"):
        SpiffeID(domain, "api")
    with pytest.raises(InvalidInput, match="at most 2048"):
        SpiffeID(domain, "/" + "a" * 2048)
    with pytest.raises(InvalidInput, match="must not be empty"):
        TrustDomain("")


def test_membership_is_that_of_the_whole_name():
    """An ID belongs to its own trust domain, not to one whose name it starts or ends with."""
    spiffe_id = SpiffeID.parse("spiffe://prod.example.org/api")
    assert spiffe_id.is_member_of(TrustDomain("prod.example.org"))
    assert not spiffe_id.is_member_of(TrustDomain("example.org"))
    assert not spiffe_id.is_member_of(TrustDomain("prod.example"))
