"""JWT-SVIDs on the client's side: what is read, what is kept, when it is renewed."""

import base64
import contextlib
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legation.clock import FixedClock
from legation.errors import (
    InvalidInput,
    LegationError,
    LimitExceeded,
    NotAuthenticated,
    NotPermitted,
    TimedOut,
    Unavailable,
)
from legation.sdk import AsyncJWTSource, AsyncX509Source, JWTSource
from legation.sdk.jwt_cache import (
    MAX_CACHED,
    JWTCache,
    call_error,
    fetch_request,
    read_fetched,
    read_token,
    read_validated,
    validate_request,
)
from legation.wire.protobuf import workload_pb2 as pb
from tests.support.foreign_workload_api import ForeignWorkloadAPI
from tests.support.foreign_workload_api import pb as foreign_pb

NOW = datetime(2031, 3, 1, 12, tzinfo=UTC)
API = "spiffe://example.org/api"
KEY = (("db",), "")


def token(*, at=NOW, life=300, **changes):
    claims = {
        "sub": API,
        "aud": ["db"],
        "iat": at.timestamp(),
        "exp": (at + timedelta(seconds=life)).timestamp(),
    }
    claims = {name: value for name, value in (claims | changes).items() if value is not None}
    parts = [json.dumps(part).encode() for part in ({"alg": "ES256"}, claims)]
    encoded = [base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts]
    return ".".join([*encoded, "c2ln"])


def answer(*tokens, spiffe_id=API):
    svids = [pb.JWTSVID(spiffe_id=spiffe_id, svid=each) for each in tokens]
    return pb.JWTSVIDResponse(svids=svids).SerializeToString()


def test_a_token_is_read():
    """Subject, audience and times come from the claims; the token is not in the repr."""
    svid = read_fetched(answer(token()), KEY)
    assert (str(svid.spiffe_id), svid.audience) == (API, ("db",))
    assert svid.expires_at == NOW + timedelta(seconds=300)
    assert svid.issued_at == NOW
    assert svid.token not in repr(svid)
    assert read_token(token(aud="db")).audience == ("db",)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff", "something else"),
        (answer(), "without JWT-SVIDs"),
        (answer("a.b"), "three parts"),
        (answer("a.!.c"), "not Base64"),
        (answer("a.W10.c"), "not an object"),
        (answer("a.e30.c"), "lacks its subject"),
        (answer(token(exp=None)), "when it expires"),
        (answer(token(exp=True)), "when it expires"),
        (answer(token(exp=1e300)), "when it expires"),
        (answer(token(aud=[1])), "audience"),
        (answer(token(sub="https://x")), "not a SPIFFE ID"),
        (answer(token(aud=["other"])), "another JWT-SVID"),
        (answer(token(), spiffe_id="spiffe://example.org/web"), "names somebody else"),
    ],
)
def test_what_is_no_token_is_refused(data, words):
    """A message or token that breaks a rule is refused in words."""
    with pytest.raises(InvalidInput, match=words):
        read_fetched(data, KEY)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data):
    """Whatever an answer holds, it is a value or one of our errors."""
    for read in (lambda: read_fetched(data, KEY), lambda: read_validated(data)):
        with contextlib.suppress(LegationError):
            read()
    with contextlib.suppress(LegationError):
        read_token(f"a.{base64.urlsafe_b64encode(data).decode()}.c")


def test_requests_are_checked():
    """An audience is needed, and nothing is longer than a token can be."""
    key, data = fetch_request(["b", "a", "a"], API)
    assert key == (("a", "b"), API)
    assert list(pb.JWTSVIDRequest.FromString(data).audience) == ["b", "a", "a"]
    with pytest.raises(InvalidInput, match="audience"):
        fetch_request([], None)
    with pytest.raises(LimitExceeded):
        fetch_request(["x"] * 33, None)
    with pytest.raises(InvalidInput, match="audience"):
        validate_request("token", "")
    with pytest.raises(LimitExceeded):
        validate_request("x" * 20_000, "me")


def test_a_token_is_kept_and_renewed_ahead():
    """Half way through its life a token is still handed out, and one caller renews it."""
    cache = JWTCache(lambda: 0.0)
    assert cache.look(KEY, at=NOW, monotonic=0) == (None, True)
    svid = read_token(token())
    cache.keep(KEY, svid, at=NOW)
    assert cache.look(KEY, at=NOW + timedelta(seconds=149), monotonic=0) == (svid, False)
    half = NOW + timedelta(seconds=150)
    assert cache.look(KEY, at=half, monotonic=10) == (svid, True)
    assert cache.look(KEY, at=half, monotonic=10) == (svid, False)
    cache.failed(KEY, monotonic=10)
    assert cache.look(KEY, at=half, monotonic=10.5) == (svid, False)
    assert cache.look(KEY, at=half, monotonic=11) == (svid, True)
    assert cache.look(KEY, at=NOW + timedelta(seconds=300), monotonic=12) == (None, True)


def test_the_cache_is_bounded():
    """The oldest audience makes room."""
    cache = JWTCache(lambda: 0.0)
    for number in range(MAX_CACHED + 1):
        cache.keep(((str(number),), ""), read_token(token()), at=NOW)
    assert cache.look((("0",), ""), at=NOW, monotonic=0)[0] is None
    assert cache.look(((str(MAX_CACHED),), ""), at=NOW, monotonic=0)[0] is not None


def test_statuses_are_our_errors():
    """Each gRPC status becomes the error that says what to do."""
    assert isinstance(call_error("PERMISSION_DENIED", ""), NotPermitted)
    assert isinstance(call_error("DEADLINE_EXCEEDED", ""), TimedOut)
    assert isinstance(call_error("INTERNAL", "x"), Unavailable)
    assert isinstance(call_error("INVALID_ARGUMENT", "x"), InvalidInput)


class Tokens:
    """Answers FetchJWTSVID with tokens of a clock's time, numbered."""

    def __init__(self, clock):
        self.clock, self.count = clock, 0

    def __call__(self, request):
        self.count += 1
        text = token(at=self.clock.now(), aud=list(request.audience), jti=str(self.count))
        return foreign_pb.JWTSVIDResponse(svids=[foreign_pb.JWTSVID(spiffe_id=API, svid=text)])


@pytest.fixture
def clock():
    return FixedClock(NOW)


@pytest.fixture
def foreign(socket, clock):
    with ForeignWorkloadAPI(socket) as api:
        api.jwt = Tokens(clock)
        yield api


def test_a_source_fetches_once(foreign, address, clock):
    """Equal audiences share a token; it is renewed in the background, then replaced."""
    with JWTSource(address, clock=clock) as source:
        first = source.fetch("db")
        assert source.fetch("db") is first
        assert source.fetch("cache") is not first
        clock.advance(200)
        assert source.fetch("db") is first
        while source.fetch("db") is first:
            pass
        assert foreign.jwt.count == 3
        foreign.stop()
        assert source.fetch("db").token
        clock.advance(1000)
        with pytest.raises((TimedOut, Unavailable)):
            source.fetch("db", timeout=0.2)
        foreign.start()


async def test_a_source_on_a_loop(foreign, address, clock):
    """The same on asyncio."""
    async with AsyncJWTSource(address, clock=clock) as source:
        first = await source.fetch("db")
        assert await source.fetch("db") is first
        clock.advance(200)
        assert await source.fetch("db") is first
        (renewal,) = source._renewals
        await renewal
        assert await source.fetch("db") is not first
        foreign.valid["good", "me"] = (API, {})
        assert str((await source.validate("good", audience="me")).spiffe_id) == API


async def test_tokens_of_our_agent(agent, entry, address, in_thread):
    """Our own agent's tokens are fetched, kept, and validated for their audience alone."""
    entry()
    async with AsyncX509Source(address) as ready:
        await ready.wait_ready(10)
    with JWTSource(address) as source:
        svid = await in_thread(source.fetch, "db")
        assert str(svid.spiffe_id) == API
        assert await in_thread(source.fetch, "db") is svid
        valid = await in_thread(source.validate, svid.token, audience="db")
        assert str(valid.spiffe_id) == API
        with pytest.raises(NotAuthenticated, match="not valid"):
            await in_thread(source.validate, svid.token, audience="somebody else")
        with pytest.raises(NotPermitted):
            await in_thread(source.fetch, "db", spiffe_id="spiffe://example.org/web")
