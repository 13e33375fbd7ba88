"""The error tree, the causes and the clock."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from legation import errors
from legation.causes import Cause, Failure, cause_of
from legation.clock import FixedClock, SystemClock, from_rfc3339, to_rfc3339
from legation.errors import (
    Conflict,
    InvalidInput,
    LegationError,
    LimitExceeded,
    Outcome,
    VerificationError,
    error_from_code,
    nearest,
    outcome_of,
)


def test_every_error_has_an_outcome_of_its_own() -> None:
    """The table that maps errors to HTTP, gRPC and exit status is total."""
    kinds = {
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, LegationError)
    }
    assert kinds == set(errors.OUTCOMES)
    assert len({kind.code for kind in kinds}) == len(kinds)


def test_a_subclass_leaves_as_its_nearest_ancestor_does() -> None:
    """An error without a row of its own takes its parent's."""

    class Narrower(Conflict):
        code = "narrower"

    assert outcome_of(Narrower("x")) == Outcome(http=409, grpc="ALREADY_EXISTS", exit=6)
    assert outcome_of(LimitExceeded("x")).http == 413


def test_an_error_crosses_a_process_boundary_by_its_code() -> None:
    """What one process reports, another can raise again."""
    error = error_from_code("conflict", "used already", remedy="make a new one")
    assert type(error) is Conflict
    assert str(error) == "used already (make a new one)"
    assert type(error_from_code("a word of the future", "x")) is LegationError


def test_a_verification_error_carries_all_failures_as_data() -> None:
    """Every failed check is there, and the first one's remedy."""
    first = Failure(cause=Cause.CERTIFICATE_EXPIRED, detail="ended yesterday", subject="leaf")
    second = Failure(cause=Cause.WEAK_KEY, detail="RSA with 1024 bits")
    error = VerificationError([first, second])
    assert error.failures == (first, second)
    assert error.message == (
        "leaf: certificate_expired: ended yesterday; weak_key: RSA with 1024 bits"
    )
    assert error.remedy == Cause.CERTIFICATE_EXPIRED.remedy
    with pytest.raises(ValueError, match="at least one"):
        VerificationError([])


@pytest.mark.parametrize("cause", list(Cause))
def test_every_cause_is_explained(cause: Cause) -> None:
    """Each word has a sentence and a remedy."""
    assert cause.explanation.endswith(".")
    assert cause.remedy


@pytest.mark.parametrize(
    ("phrase", "cause"),
    [
        ("TLS_error:|268435581:SSL routines:CERTIFICATE_VERIFY_FAILED:_certificate_has_expired",
         Cause.CERTIFICATE_EXPIRED),
        ("verification error at depth 0: certificate revoked", Cause.CERTIFICATE_REVOKED),
        ("CRL has expired", Cause.REVOCATION_DATA_STALE),
        ("unable to get certificate CRL", Cause.REVOCATION_DATA_MISSING),
        ("unable to get local issuer certificate", Cause.UNKNOWN_AUTHORITY),
        ("PEER_DID_NOT_RETURN_A_CERTIFICATE", Cause.NO_CLIENT_CERTIFICATE),
        ("SAN_matcher,_certificate_SANs_are_[spiffe://a/b]", Cause.WRONG_IDENTITY),
        ("HTTP_REQUEST", Cause.PLAINTEXT),
        ("something nobody has seen", Cause.UNKNOWN),
    ],
)  # fmt: skip
def test_a_library_phrase_becomes_one_word(phrase: str, cause: Cause) -> None:
    """Envoy's and OpenSSL's phrases are translated in one place."""
    assert cause_of(phrase) is cause


def test_the_nearest_name_is_offered_only_when_it_is_near() -> None:
    """A slip gets a suggestion, a stranger gets none."""
    assert nearest("trust_domian", ["trust_domain", "data_dir"]) == "trust_domain"
    assert nearest("zebra", ["trust_domain", "data_dir"]) is None


def test_times_travel_as_rfc3339_in_utc() -> None:
    """A time survives the trip; one without an offset is refused."""
    moment = datetime(2026, 1, 31, 14, 0, 0, 5000, tzinfo=timezone(timedelta(hours=2)))
    assert to_rfc3339(moment) == "2026-01-31T12:00:00.005Z"
    assert from_rfc3339("2026-01-31T12:00:00.005Z") == moment
    with pytest.raises(ValueError, match="no time zone"):
        from_rfc3339("2026-01-31T12:00:00")


def test_clocks_tell_aware_time() -> None:
    """Both clocks are timezone-aware, and a fixed one moves only when told."""
    assert SystemClock().now().tzinfo is UTC
    assert SystemClock().monotonic() <= SystemClock().monotonic()
    clock = FixedClock(datetime(2030, 1, 1, tzinfo=UTC))
    clock.advance(90)
    assert clock.now() == datetime(2030, 1, 1, 0, 1, 30, tzinfo=UTC)
    assert clock.monotonic() == 90


def test_invalid_input_is_one_line_with_its_remedy() -> None:
    """An error renders as one line."""
    assert str(InvalidInput("bad", remedy="mend it")) == "bad (mend it)"
    assert str(InvalidInput("bad")) == "bad"
