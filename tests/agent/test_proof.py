"""The proof of a new certificate."""

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from legation.agent.identities.proof import prove, still_proved
from legation.causes import Cause
from legation.errors import InvalidInput, VerificationError
from legation.pki import WORKLOAD, KeyAlgorithm, SpiffeID, TrustBundle, generate_key
from tests.support.scripted_authority import TRUST_DOMAIN, ScriptedAuthority

API = SpiffeID(TRUST_DOMAIN, "/api")


@pytest.fixture(scope="module")
def stub():
    return ScriptedAuthority()


def certified(stub, key, spiffe_id=API, **options):
    chain = stub.certify(WORKLOAD, spiffe_id, key.public_key(), begin=stub.now, **options)
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in chain)


def causes(caught):
    return {failure.cause for failure in caught.value.failures}


@pytest.mark.parametrize("algorithm", [KeyAlgorithm.P256, KeyAlgorithm.ED25519])
def test_a_good_chain_is_proved(stub, algorithm):
    """A chain for the key, the identity and the bundle passes, handshake included."""
    key = generate_key(algorithm)
    proved = prove(certified(stub, key), key, expected=API, bundle=stub.bundle, at=stub.now)
    assert len(proved) == 2


def test_an_algorithm_that_tls_cannot_load_here_is_proved_without_a_handshake(stub):
    """A post-quantum key is proved by its chain alone, as Python's TLS does not know it."""
    key = generate_key(KeyAlgorithm.ML_DSA_65)
    assert prove(certified(stub, key), key, expected=API, bundle=stub.bundle, at=stub.now)


def test_another_key_is_refused(stub):
    """A certificate for another key than the one that was made is refused."""
    with pytest.raises(VerificationError) as caught:
        prove(
            certified(stub, generate_key()),
            generate_key(),
            expected=API,
            bundle=stub.bundle,
            at=stub.now,
        )
    assert causes(caught) == {Cause.MALFORMED_CERTIFICATE}


def test_another_identity_is_refused(stub):
    """A certificate for another workload is refused."""
    key = generate_key()
    chain = certified(stub, key, SpiffeID(TRUST_DOMAIN, "/other"))
    with pytest.raises(VerificationError) as caught:
        prove(chain, key, expected=API, bundle=stub.bundle, at=stub.now)
    assert Cause.WRONG_IDENTITY in causes(caught)


def test_another_authority_is_refused(stub):
    """A chain that the current trust bundle does not vouch for is refused."""
    key = generate_key()
    with pytest.raises(VerificationError) as caught:
        prove(
            certified(ScriptedAuthority(), key), key, expected=API, bundle=stub.bundle, at=stub.now
        )
    assert Cause.UNKNOWN_AUTHORITY in causes(caught)


def test_an_expired_certificate_is_refused(stub):
    """A certificate that is over when it arrives is refused."""
    key = generate_key()
    chain = certified(stub, key, lifetime_s=60)
    at = stub.now + timedelta(hours=1)
    with pytest.raises(VerificationError) as caught:
        prove(chain, key, expected=API, bundle=stub.bundle, at=at)
    assert causes(caught) == {Cause.CERTIFICATE_EXPIRED}
    with pytest.raises(VerificationError):
        still_proved(chain, expected=API, bundle=stub.bundle, at=at)


@pytest.mark.parametrize("chain", [(), (b"",), (b"\x30\x00",)])
def test_rubbish_is_refused(stub, chain):
    """No chain, or what is no certificate, is refused in words."""
    with pytest.raises((VerificationError, InvalidInput)):
        prove(chain, generate_key(), expected=API, bundle=stub.bundle, at=stub.now)


@pytest.mark.parametrize(("issued", "asked"), [(("b.example.org",), ()), ((), ("b.example.org",))])
def test_other_names_than_were_asked_for_are_refused(stub, issued, asked):
    """A certificate with a name more, or one fewer, than its entry has, is refused."""
    key = generate_key()
    with pytest.raises(VerificationError, match="asked for was") as caught:
        prove(
            certified(stub, key, dns_names=issued),
            key,
            expected=API,
            bundle=stub.bundle,
            at=stub.now,
            dns_names=asked,
        )
    assert causes(caught) == {Cause.WRONG_IDENTITY}


def test_exactly_the_names_that_were_asked_for_are_proved(stub):
    """The DNS names of the entry, in whatever order, are what the certificate has."""
    key = generate_key()
    names = ("b.example.org", "a.example.org")
    assert prove(
        certified(stub, key, dns_names=names),
        key,
        expected=API,
        bundle=stub.bundle,
        at=stub.now,
        dns_names=names[::-1],
    )


def test_a_bundle_that_some_peers_still_hold_counts(stub):
    """A chain that the bundle in force vouches for, and the one before does not, is refused."""
    key = generate_key()
    chain = certified(stub, key)
    before = ScriptedAuthority().bundle
    with pytest.raises(VerificationError) as caught:
        prove(chain, key, expected=API, bundle=stub.bundle, at=stub.now, further=(before,))
    assert Cause.UNKNOWN_AUTHORITY in causes(caught)
    both = TrustBundle(TRUST_DOMAIN, (*before.x509_authorities, *stub.bundle.x509_authorities))
    assert prove(chain, key, expected=API, bundle=stub.bundle, at=stub.now, further=(both,))
