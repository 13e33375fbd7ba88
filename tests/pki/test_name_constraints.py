import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from legation.pki.parts import Parts
from legation.pki.verification.name_constraints import violations
from tests.support.pki import CA, LEAF, make

URI, DNS, MAIL = x509.UniformResourceIdentifier, x509.DNSName, x509.RFC822Name


def allowed(name, *, permitted=None, excluded=None):
    constraints = x509.NameConstraints(
        permitted_subtrees=permitted and [permitted], excluded_subtrees=excluded and [excluded]
    )
    certificate = make(LEAF, make(CA, subject="x"), uris=(), other_names=(name,)).certificate
    return not violations(constraints, Parts(certificate))


@pytest.mark.parametrize(
    ("name", "base", "within"),
    [
        (DNS("example.org"), DNS("example.org"), True),
        (DNS("a.example.org"), DNS("example.org"), True),
        (DNS("a.example.org"), DNS(".example.org"), True),
        (DNS("badexample.org"), DNS("example.org"), False),
        (DNS("example.org.test"), DNS("example.org"), False),
        (DNS("anything.test"), DNS(""), True),
        (URI("spiffe://example.org/a"), URI("example.org"), True),
        (URI("spiffe://EXAMPLE.org/a"), URI("example.ORG"), True),
        (URI("spiffe://a.example.org/a"), URI("example.org"), False),
        (URI("spiffe://a.example.org/a"), URI(".example.org"), True),
        (URI("spiffe://example.org/a"), URI(".example.org"), False),
        (URI("https://user@example.org:8443/a"), URI("example.org"), True),
        (URI("https://example.org@evil.test/"), URI("example.org"), False),
        (MAIL("a@example.org"), MAIL("example.org"), True),
        (MAIL("a@b.example.org"), MAIL("example.org"), False),
        (MAIL("a@b.example.org"), MAIL(".example.org"), True),
        (MAIL("a@example.org"), MAIL("a@EXAMPLE.org"), True),
        (MAIL("A@example.org"), MAIL("a@example.org"), False),
    ],
)
def test_a_name_is_within_a_base_or_not(name, base, within):
    """What a base permits it also excludes, and nothing else."""
    assert allowed(name, permitted=base) == within
    assert allowed(name, excluded=base) != within


@pytest.mark.parametrize(
    "name",
    [
        URI("urn:uuid:f81d4fae"),
        URI("https://10.0.0.1/"),
        URI("https://[::1]/"),
        URI("https://[bad/"),
        MAIL("nobody"),
    ],
)
def test_a_name_without_host_is_refused_either_way(name):
    """When there is no host to compare, the name is neither permitted nor left alone."""
    base = type(name)("example.org")
    assert not allowed(name, permitted=base)
    assert not allowed(name, excluded=base)


def test_an_exclusion_covers_the_wildcards_that_reach_it():
    """A wildcard that could stand for an excluded host is refused, an unrelated one is not."""
    assert not allowed(DNS("*.example.org"), excluded=DNS("secret.example.org"))
    assert allowed(DNS("*.example.org"), excluded=DNS("secret.example.net"))
    assert allowed(DNS("*.example.org"), permitted=DNS("example.org"))
    assert not allowed(DNS("*.example.org"), permitted=DNS("secret.example.org"))


def test_a_mailbox_in_the_subject_counts():
    """Old certificates keep the mailbox in the subject: it is constrained as well."""
    attribute = x509.NameAttribute(NameOID.EMAIL_ADDRESS, "me@evil.test")
    certificate = make(LEAF, make(CA, subject="x")).certificate
    parts = Parts(certificate)
    parts.subject = x509.Name([attribute])
    constraints = x509.NameConstraints(
        permitted_subtrees=[MAIL("example.org")], excluded_subtrees=None
    )
    assert violations(constraints, parts) == ["'me@evil.test' is not among what is permitted"]


def test_comparisons_are_bounded():
    """Thousands of names against thousands of constraints are refused, not compared."""
    many = x509.NameConstraints(
        permitted_subtrees=[DNS(f"{number}.test") for number in range(300)], excluded_subtrees=None
    )
    names = tuple(DNS(f"{number}.test") for number in range(300))
    certificate = make(LEAF, make(CA, subject="x"), other_names=names).certificate
    assert violations(many, Parts(certificate)) == [
        "there are too many names and constraints to compare"
    ]
