"""Certifying a new key for the operator who asks."""

from legation.cli.api_client import APIClient
from legation.cli.credential import OperatorCredential
from legation.cli.operator_files import OperatorRequest
from legation.pki import algorithm_of, generate_key


def renew(client: APIClient) -> OperatorCredential:
    """Make a key of the same kind, have it certified, and replace the credential on disk.

    Raises:
        LegationError: as the authority answers, or the disk refuses; the old one stays then.
    """
    old = client.credential
    key = generate_key(algorithm_of(old.private_key.public_key()))
    request = OperatorRequest.make(private_key=key)
    answer = client.post("operators", "self", "renew", body={"csr": request.pem})
    request.write(old.path.parent, chain_pem=answer["chain_pem"], bundle_pem=old.bundle_pem)
    return OperatorCredential.load(old.path.parent)
