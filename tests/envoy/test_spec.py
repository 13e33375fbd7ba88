"""What a proxy says about itself, and how a wrong word is answered."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legation.envoy import Address, Inbound, Outbound, ProxySpec
from legation.errors import InvalidInput, LegationError, LimitExceeded
from tests.support.envoy import API, WEB

INBOUND = {"listen": "127.0.0.1:8443", "app": "127.0.0.1:8080"}
OUTBOUND = {"listen": "127.0.0.1:9001", "upstream": "api:8443", "spiffe_id": API}


def test_round_trip(spec: ProxySpec) -> None:
    """A spec survives its way through Envoy's node metadata."""
    assert ProxySpec.from_metadata(spec.to_metadata()) == spec


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        (None, "legation is not an object"),
        ({"inbound": [INBOUND]}, "legation.name is missing"),
        ({"name": "a b", "inbound": [INBOUND]}, "'a b' is not a proxy name"),
        ({"name": "a\n", "inbound": [INBOUND]}, "is not a proxy name"),
        ({"name": 5, "inbound": [INBOUND]}, "legation.name is not text"),
        ({"name": "a"}, "neither inbound nor outbound"),
        ({"name": "a", "inbond": [INBOUND]}, "did you mean 'inbound'?"),
        ({"name": "a", "xyz": 1}, "known are inbound, name, outbound, spiffe_id"),
        ({"name": "a", "inbound": {}}, "legation.inbound is not a list"),
        ({"name": "a", "inbound": [5]}, "legation.inbound[0] is not an object"),
        ({"name": "a", "inbound": [{"listen": "h:1"}]}, "legation.inbound[0].app is missing"),
        (
            {"name": "a", "inbound": [INBOUND | {"protocol": "udp"}]},
            "known are http, http2, tcp, tcp-s",
        ),
        ({"name": "a", "inbound": [INBOUND | {"listen": "here:80"}]}, "cannot listen on the name"),
        ({"name": "a", "inbound": [INBOUND | {"app": "127.0.0.1:0"}]}, "0 is not a port"),
        ({"name": "a", "inbound": [INBOUND, INBOUND]}, "listens twice on 127.0.0.1:8443"),
        ({"name": "a", "inbound": [INBOUND | {"spiffe_id": "x"}]}, "is not a SPIFFE ID"),
        (
            {"name": "a", "spiffe_id": WEB, "inbound": [INBOUND | {"spiffe_id": API}]},
            "names two identities",
        ),
        (
            {"name": "a", "outbound": [{"listen": "127.0.0.1:1", "upstream": "api:1"}]},
            "legation.outbound[0].spiffe_id is missing",
        ),
    ],
)
def test_wrong_metadata(metadata: object, words: str) -> None:
    """A wrong field is named with its path, and with what to write instead."""
    with pytest.raises(InvalidInput) as refused:
        ProxySpec.from_metadata(metadata)
    assert words in str(refused.value)


def test_too_many_ports() -> None:
    """The number of ports is bounded."""
    many = [INBOUND | {"listen": f"127.0.0.1:{port}"} for port in range(1, 66)]
    with pytest.raises(LimitExceeded, match="more than 64"):
        ProxySpec.from_metadata({"name": "a", "inbound": many})
    with pytest.raises(LimitExceeded, match="at most 64"):
        ProxySpec(name="a", inbound=tuple(Inbound(**one) for one in many))


@pytest.mark.parametrize(
    ("spec_identity", "inbound_identity", "identity"),
    [(None, None, None), (API, None, API), (None, API, API), (API, API, API)],
)
def test_identity(
    spec: ProxySpec, spec_identity: str | None, inbound_identity: str | None, identity: str | None
) -> None:
    """The identity may be named once, anywhere, or everywhere alike."""
    inbound = Inbound(**INBOUND, spiffe_id=inbound_identity)
    assert replace(spec, inbound=(inbound,), spiffe_id=spec_identity).identity == identity


@pytest.mark.parametrize(
    ("text", "host", "port", "is_ip"),
    [
        ("127.0.0.1:8443", "127.0.0.1", 8443, True),
        ("[::1]:1", "::1", 1, True),
        ("db.example.org:65535", "db.example.org", 65535, False),
        ("my_service:80", "my_service", 80, False),
    ],
)
def test_addresses(text: str, host: str, port: int, is_ip: bool) -> None:
    """An address is a host and a port, and is written as it was read."""
    address = Address.parse(text)
    assert (address.host, address.port, address.is_ip) == (host, port, is_ip)
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    ["", "h", ":1", "h:", "h:x", "h:-1", "h:65536", "h:٣", "::1:80", "[h]:1", "[fe80::1%e]:1",
     "h:1\n", "a b:1", "[::1:1", "h:000001"],
)  # fmt: skip
def test_wrong_addresses(text: str) -> None:
    """What is not an address is refused."""
    with pytest.raises(InvalidInput):
        Address.parse(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from([API, "h:1"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["name", "inbound", "outbound", "listen", "app", "x"]), inner
            )
        ),
    )
)
def test_metadata_never_crashes(metadata: object) -> None:
    """Whatever metadata is, it is a spec or it is refused in words."""
    try:
        spec = ProxySpec.from_metadata(metadata)
    except LegationError:
        return
    assert ProxySpec.from_metadata(spec.to_metadata()) == spec


def test_outbound_needs_a_whole_identity() -> None:
    """An outbound port without a valid expected identity cannot be made."""
    with pytest.raises(InvalidInput):
        Outbound(**(OUTBOUND | {"spiffe_id": "spiffe://example.org/"}))
