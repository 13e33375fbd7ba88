from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from legation.errors import InvalidInput
from legation.pki import CLIENT, OCSP, WORKLOAD, KeyAlgorithm, der, generate_key
from legation.pki.lint import FrameLinter, frames, lint
from legation.pki.parts import Parts
from tests.support.broken import BROKEN, SELDOM
from tests.support.pki import DAY, LEAF, NOW, make

URL = "http://crl.test/7"
KEYS = [
    generate_key(),
    generate_key(),
    generate_key(KeyAlgorithm.ED25519),
    generate_key(KeyAlgorithm.P384),
    ec.generate_private_key(ec.SECP224R1()),
]


def twin(certificate):
    """Return the certificate in DER with the placeholder of a signature."""
    data = certificate.public_bytes(Encoding.DER)
    _, start, end = der.read(data, 0, len(data))
    _, (_, _, algorithm_end), _ = der.read_all(data, start, end)
    return der.encode(der.SEQUENCE, data[start:algorithm_end] + der.bit_string(b"not signed"))


def cold(data, profile=WORKLOAD):
    return lint(x509.load_der_x509_certificate(data), profile)


@pytest.fixture
def full(monkeypatch):
    """Return the list of the certificates that are linted in full from now on."""
    linted = []

    def counting(certificate, profile):
        linted.append(certificate)
        return lint(certificate, profile)

    monkeypatch.setattr(frames, "lint", counting)
    return linted


@pytest.fixture
def leaf(good):
    """Return what makes the twin of a leaf whose own parts are as asked for."""

    def make_twin(**changes):
        arguments = {"crl_urls": (URL,), "serial": 1 << 120, "key": KEYS[0], **changes}
        return twin(make(LEAF, good.issuer, **arguments).certificate)

    return make_twin


NAMES = {"uris", "dns_names", "other_names"}
REMEMBERING = FrameLinter()  # for all examples together


@given(
    change=st.sampled_from(
        [({}, None)] * 20 + [(c, s) for s, c in [*BROKEN.values(), *SELDOM.values()]]
    ),
    profile=st.sampled_from([WORKLOAD, CLIENT, OCSP]),
    own=st.fixed_dictionaries(
        {},
        optional={
            "uris": st.sampled_from(
                [(), ("spiffe://example.org/abc",), ("https://example.org/abcd",), ("spiffe:",)]
            ),
            "dns_names": st.lists(
                st.sampled_from(["good.test", "-bad.test", "a..b.test", "*.ok.test"]), max_size=2
            ).map(tuple),
            "other_names": st.sampled_from([(), (x509.RFC822Name("a@b.test"),)]),
            "serial": st.sampled_from([1, 1 << 119, 1 << 120, (1 << 120) + 5]),
            "not_after": st.sampled_from([NOW + DAY, NOW + 40 * DAY, NOW + 20 * 366 * DAY]),
            "key": st.sampled_from(KEYS),
            "subject": st.sampled_from(["", "x"]),
            "crl_urls": st.sampled_from([(URL,), (URL.replace("http", "ldap"),)]),
        },
    ),
)
def test_remembering_finds_what_linting_in_full_finds(good, change, profile, own):
    """Whatever was linted before, the findings are those of a linter that remembers nothing."""
    changes, spec = change
    arguments = {**own, **changes}
    # An alternative name of its own cannot be had beside the one that a change brings.
    if any(type(value) is x509.SubjectAlternativeName for value, _ in changes.get("extra", ())):
        arguments = {k: v for k, v in arguments.items() if k not in NAMES}
    by = good.issuer if "by" not in arguments else arguments.pop("by")
    data = twin(make(spec or LEAF, by, **arguments).certificate)
    for _ in range(2):
        assert REMEMBERING.lint(data, profile) == cold(data, profile)


def test_a_clean_frame_is_linted_once(leaf, full):
    """The second certificate of a frame is not linted in full, whatever its own parts are."""
    linter = FrameLinter()
    assert linter.lint(leaf(uris=("spiffe://example.org/abc",)), WORKLOAD) == []
    second = leaf(
        uris=("spiffe://example.org/xyz",),
        serial=(1 << 120) + 1,
        key=KEYS[1],
        not_before=NOW,
        not_after=NOW + timedelta(hours=1),
    )
    assert linter.lint(second, WORKLOAD) == []
    assert len(full) == 1
    assert linter.lint(leaf(uris=("spiffe://example.org/longer",)), WORKLOAD) == []
    assert linter.lint(second, OCSP) != []
    assert len(full) == 3


def test_a_wrong_guess_of_places_costs_no_full_lint(leaf, full):
    """Of two frames of one length, each is known again after the other."""
    linter = FrameLinter()
    long_name = leaf(uris=("spiffe://example.org/ab",), crl_urls=(URL,))
    long_url = leaf(uris=("spiffe://example.org/a",), crl_urls=(URL + "0",))
    assert len(long_name) == len(long_url)
    for _ in range(3):
        assert linter.lint(long_name, WORKLOAD) == []
        assert linter.lint(long_url, WORKLOAD) == []
    assert len(full) == 2


def reversed_times(data):
    begin, end = (f"{NOW + days * DAY:%y%m%d%H%M%SZ}".encode() for days in (-1, 1))
    return data.replace(begin, bytes(13)).replace(end, begin).replace(bytes(13), end)


def no_point(data):
    point = KEYS[0].public_key().public_numbers()
    return data.replace(point.x.to_bytes(32, "big"), bytes(32))


@pytest.mark.parametrize(
    ("rule", "changes", "edit"),
    [
        ("dns_name", {"dns_names": ("-bad.test",)}, bytes),
        ("uri", {"uris": ("spiffe-//example.org/api",)}, bytes),
        ("svid_spiffe_id", {"uris": ("spiffe://example.org/ap/",)}, bytes),
        ("profile_lifetime", {"not_after": NOW + 40 * DAY}, bytes),
        ("validity_order", {}, reversed_times),
        ("public_key", {}, no_point),
    ],
)
def test_what_is_broken_in_an_own_part_is_found_behind_a_clean_frame(
    leaf, full, rule, changes, edit
):
    """Names, times and keys are looked at in each certificate, though its frame is known."""
    linter = FrameLinter()
    names = {"uris": ("spiffe://example.org/api",), "dns_names": ("good.test",)}
    if rule in {"uri", "svid_spiffe_id"}:
        names["uris"] = ("spiffe://example.org/" + "x" * (len(changes["uris"][0]) - 21),)
    assert linter.lint(leaf(**names), WORKLOAD) == []
    data = edit(leaf(**{**names, **changes}))
    assert rule in [finding.rule for finding in linter.lint(data, WORKLOAD)]
    assert linter.lint(data, WORKLOAD) == cold(data)
    assert len(linter._frames) == 1
    assert linter.lint(leaf(**names), WORKLOAD) == []


def test_a_negative_serial_number_is_found_behind_a_clean_frame(leaf):
    """The first bit of a serial number is its sign, and belongs to the certificate's own parts."""
    linter = FrameLinter()
    number = (1 << 126) + 1
    data = leaf(serial=number)
    assert linter.lint(data, WORKLOAD) == []
    octets = number.to_bytes(16, "big")
    negative = data.replace(octets, b"\xc0" + octets[1:])
    with pytest.warns(match="serial number which wasn't positive"):
        assert "serial_size" in [finding.rule for finding in linter.lint(negative, WORKLOAD)]


@pytest.mark.parametrize(
    ("rule", "before", "after"),
    [
        ("crl_distribution_points", b"http://crl", b"ldap://crl"),
        ("profile_key_usage", b"\x03\x02\x07\x80", b"\x03\x02\x06\x40"),
        ("signature_algorithm", b"\xce\x3d\x04\x03\x02", b"\xce\x3d\x04\x03\x01"),
        ("svid_extended_key_usage", b"\x05\x05\x07\x03\x01", b"\x05\x05\x07\x03\x04"),
        ("unknown_critical_extension", b"\x55\x1d\x0f\x01\x01\xff", b"\x55\x1d\x7f\x01\x01\xff"),
        ("readable", b"\x55\x1d\x1f", b"\x55\x1d\x1e"),
    ],
)  # fmt: skip
def test_what_is_broken_in_the_frame_is_found_after_a_clean_one(leaf, rule, before, after):
    """A frame that differs in one octet is another one, and linted in full each time."""
    linter = FrameLinter()
    data = leaf()
    assert linter.lint(data, WORKLOAD) == []
    assert before in data
    broken = data.replace(before, after)
    for _ in range(2):
        findings = linter.lint(broken, WORKLOAD)
        assert rule in [finding.rule for finding in findings]
        assert findings == cold(broken)
    assert len(linter._frames) == 1


def test_other_names_behind_a_known_frame_are_left_to_the_full_lint(leaf, full):
    """Names that cannot be read here, or make an SVID of what was none, get the full lint."""
    linter = FrameLinter()
    web = {"uris": ("https://example.org/apis",), "subject": "x"}
    first = leaf(**web)
    assert linter.lint(first, CLIENT) == []
    for uri in (b"spiffe://example.org//pi", b"https://example.org/\xff\xff\xff\xff"):
        data = first.replace(b"https://example.org/apis", uri)
        assert linter.lint(data, CLIENT) == cold(data, CLIENT) != []
    assert len(full) == 3


def test_what_cannot_be_taken_apart_is_linted_in_full_each_time(good, leaf, full):
    """Without alternative names, or with names of another kind, nothing is remembered."""
    linter = FrameLinter()
    nameless = twin(
        make(
            LEAF, good.issuer, uris=(), subject="x", extended=CLIENT.extended_key_usages
        ).certificate
    )
    other = leaf(other_names=(x509.RFC822Name("a@b.test"),))
    for _ in range(2):
        assert linter.lint(nameless, CLIENT) == []
        assert linter.lint(other, WORKLOAD) == []
    assert len(full) == 4
    assert not linter._frames


def test_the_memory_is_bounded(leaf, monkeypatch):
    """Beyond the limit everything is forgotten, and linting finds the same."""
    monkeypatch.setattr(frames, "MAX_FRAMES", 2)
    linter = FrameLinter()
    for number in [*range(5), 0]:
        assert linter.lint(leaf(crl_urls=(f"{URL}/{number}",)), WORKLOAD) == []
        assert len(linter._frames) <= 2
        assert len(linter._guesses) <= 2


def test_no_certificate_is_no_finding():
    """What is no certificate at all is an error."""
    with pytest.raises(InvalidInput, match="cannot be written"):
        FrameLinter().lint(b"\x30\x00", WORKLOAD)


def test_these_rules_run_for_every_certificate(leaf):
    """The rules about own parts are found by watching them."""
    linter = FrameLinter()
    linter.lint(leaf(), WORKLOAD)
    (frame,) = linter._frames.values()
    assert {rule.id for rule in (*frame._rules, *frame._profile_rules)} == {
        "version",
        "serial_size",
        "serial_entropy",
        "signature_algorithm",
        "validity_order",
        "public_key",
        "alternative_name_empty",
        "dns_name",
        "uri",
        "svid_one_uri",
        "svid_spiffe_id",
        "profile_extended_key_usage",
        "profile_lifetime",
        "profile_names",
    }


@pytest.mark.parametrize(
    ("look", "own"),
    [
        (lambda parts: parts.value(x509.SubjectAlternativeName), True),
        (lambda parts: parts.value(x509.SubjectKeyIdentifier), True),
        (lambda parts: parts.extensions[x509.SubjectAlternativeName].value, True),
        (lambda parts: parts.certificate.version.name, True),
        (lambda parts: parts.not_before, True),
        (lambda parts: parts.names[0].value, True),
        (lambda parts: parts.value(x509.KeyUsage), False),
        (lambda parts: parts.critical(x509.SubjectAlternativeName), False),
        (lambda parts: parts.has(x509.SubjectAlternativeName), False),
        (lambda parts: (parts.subject, parts.issuer, parts.ca, parts.unknown), False),
    ],
)
def test_no_look_at_an_own_part_goes_unseen(leaf, look, own):
    """Whichever way a rule takes, it sees this certificate's part, and that it did is noted."""
    first, second = (
        x509.load_der_x509_certificate(data)
        for data in (
            leaf(uris=("spiffe://example.org/a",)),
            leaf(uris=("spiffe://example.org/b",), key=KEYS[1], not_before=NOW),
        )
    )
    names = der.encode(0x86, b"spiffe://example.org/b")
    view = frames._View(Parts(first), frames._Own(second, names))
    assert view.is_looked_at(lambda: look(view)) is own
    assert look(view) == look(Parts(second))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes.fromhex("3003300102"),
        bytes.fromhex("30043002" + "0500"),
        bytes.fromhex("30123010" + "0500" * 4 + "30020500" + "0500" * 2),
        bytes.fromhex("3016" + "3014" + "0500" * 4 + "300405000500" + "0500" * 3),
    ],
)
def test_what_is_no_certificate_has_no_own_parts(data):
    """Bytes that are cut off, or have other fields than a certificate, are refused."""
    with pytest.raises(InvalidInput):
        frames._own_spans(data)


def test_an_extension_with_something_behind_its_value_has_no_own_part():
    """The value of an extension is the whole of its octet string (RFC 5280, section 4.1)."""
    wrapped = der.object_identifier("2.5.29.14") + der.encode(
        der.OCTET_STRING, b"\x04\x01x\x05\x00"
    )
    with pytest.raises(InvalidInput, match="taken apart"):
        frames._value(wrapped, 0, len(wrapped))
