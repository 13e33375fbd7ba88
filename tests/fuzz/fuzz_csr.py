"""Certificate signing requests: the first bytes that an unknown caller sends."""

from contextlib import suppress

from legation.errors import InvalidInput
from legation.pki import CertificateRequest, SpiffeID, build_request, generate_key

SEEDS = (
    build_request(
        generate_key(), spiffe_id=SpiffeID.parse("spiffe://example.org/api"), dns_names=("a.test",)
    ),
    build_request(generate_key()),
)


def one_input(data: bytes) -> None:
    """Read `data` as a request in DER and in PEM; nothing but InvalidInput may be raised."""
    with suppress(InvalidInput):
        request = CertificateRequest.from_der(data)
        if request.der != data:
            raise AssertionError("the request is not the bytes it was read from")
        if len(request.spiffe_ids) > 1:
            raise AssertionError("a request for two identities was accepted")
    with suppress(InvalidInput):
        CertificateRequest.from_pem(data)
