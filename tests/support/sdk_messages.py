"""Identities and messages for tests of the SDK's state machine."""

from dataclasses import dataclass
from datetime import timedelta

from legation.pki import (
    RevokedEntry,
    TrustBundle,
    TrustDomain,
    build_crl,
    certificates_to_der,
    private_key_to_der,
)
from legation.wire.protobuf import enforcement_pb2, workload_pb2
from tests.support.pki import CA, HOUR, LEAF, NOW, make


class Domain:
    """A trust domain with a root and an issuer."""

    def __init__(self, name="example.org", *, now=NOW):
        self.now = now
        self.trust_domain = TrustDomain(name)
        span = {"not_before": now - HOUR, "not_after": now + 365 * 24 * HOUR}
        self.root = make(CA, subject=f"root of {name}", **span)
        self.issuer = make(CA, self.root, subject=f"issuer of {name}", **span)
        self.bundle = TrustBundle(self.trust_domain, (self.root.certificate,))

    def svid(self, path="/api", *, hours=1, **changes):
        leaf = make(
            LEAF,
            self.issuer,
            uris=(f"spiffe://{self.trust_domain}{path}",),
            not_before=self.now - timedelta(minutes=1),
            not_after=self.now + hours * HOUR,
            **changes,
        )
        return Identity(
            spiffe_id=f"spiffe://{self.trust_domain}{path}",
            chain=(leaf.certificate, self.issuer.certificate),
            private_key=leaf.key,
            bundle=(self.root.certificate,),
        )

    def crl(self, *serials, number=1, hours=1):
        return build_crl(
            self.issuer.issuer,
            [RevokedEntry(serial, self.now - HOUR) for serial in serials],
            number=number,
            this_update=self.now - HOUR,
            next_update=self.now + hours * HOUR,
        )


@dataclass(frozen=True, kw_only=True)
class Identity:
    spiffe_id: str
    chain: tuple
    private_key: object
    bundle: tuple

    @property
    def serial(self):
        return self.chain[0].serial_number


def svid_message(identity, *, hint="", kind=workload_pb2.X509SVID, **changes):
    fields = {
        "spiffe_id": identity.spiffe_id,
        "x509_svid": certificates_to_der(identity.chain),
        "x509_svid_key": private_key_to_der(identity.private_key),
        "bundle": certificates_to_der(identity.bundle),
        "hint": hint,
    }
    return kind(**(fields | changes))


def svids(*messages, crl=(), federated=None):
    response = workload_pb2.X509SVIDResponse(
        svids=[m if hasattr(m, "DESCRIPTOR") else svid_message(m) for m in messages],
        crl=crl,
        federated_bundles={
            f"spiffe://{domain.trust_domain}": certificates_to_der(domain.bundle.x509_authorities)
            for domain in federated or ()
        },
    )
    return response.SerializeToString()


def bundles(*domains, crl=()):
    response = workload_pb2.X509BundlesResponse(
        bundles={
            f"spiffe://{domain.trust_domain}": certificates_to_der(domain.bundle.x509_authorities)
            for domain in domains
        },
        crl=crl,
    )
    return response.SerializeToString()


def packed(*serials, width=16):
    return b"".join(serial.to_bytes(width) for serial in serials)


def changes(**fields):
    message = enforcement_pb2.Changes(**fields)
    return enforcement_pb2.FollowResponse(changes=message).SerializeToString()


def policies(*documents, first=True, last=True):
    message = enforcement_pb2.Policies(first=first, last=last, documents=documents)
    return enforcement_pb2.FollowResponse(policies=message).SerializeToString()


def freshness(as_of, bound, *, action=0, **policy):
    message = enforcement_pb2.Freshness(
        as_of_ms=round(as_of.timestamp() * 1000),
        bound_ms=round(bound.total_seconds() * 1000),
        action=action,
        **policy,
    )
    return enforcement_pb2.FollowResponse(freshness=message).SerializeToString()


def staple(serial, response):
    text = format(serial, "x") if isinstance(serial, int) else serial
    message = enforcement_pb2.Staple(serial=text, response=response)
    return enforcement_pb2.FollowResponse(staple=message).SerializeToString()


def said(command):
    """Read what a `Send` or the request of a `Connect` says."""
    data = getattr(command, "data", None) or command.request
    return enforcement_pb2.FollowRequest.FromString(data)
