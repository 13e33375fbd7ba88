"""How the messages of `agent.proto` travel: the names that both ends must agree on."""

from hashlib import sha256

# HTTP/1.1, on the HTTPS port.
PATH_PREFIX = "/agent/v1/"
ISSUE_PATH = f"{PATH_PREFIX}issue"
RENEW_PATH = f"{PATH_PREFIX}renew"
SUPERSEDED_PATH = f"{PATH_PREFIX}superseded"
# Open to anyone: an agent whose certificate has expired has none to show.
CHALLENGE_PATH = f"{PATH_PREFIX}challenge"
RENEW_EXPIRED_PATH = f"{PATH_PREFIX}renew-expired"
JWT_PATH = f"{PATH_PREFIX}jwt"
STAPLES_PATH = f"{PATH_PREFIX}staples"
KEPT_PATH = f"{PATH_PREFIX}kept"
# The one that is no request: the connection becomes a stream of frames both ways (`Upgrade`,
# RFC 9110, section 7.8). The agent speaks first.
SYNC_PATH = f"{PATH_PREFIX}sync"
SYNC_PROTOCOL = "legation-sync/1"
MAX_STAPLES = 256  # in one request
MAX_KEPT = 256  # events in one request
MAX_KEPT_PAGES = 4
MEDIA_TYPE = "application/x-protobuf"
MAX_REQUEST_BYTES = 12 << 20  # 500 requests of 16 KiB, and their names
MAX_RESPONSE_BYTES = 16 << 20  # as the request, and so is each message of a stream


def expired_renewal_statement(nonce: bytes, csr: bytes) -> bytes:
    """Return what the key of an expired certificate signs, to ask for the next one.

    The first line keeps the signature from meaning anything elsewhere.
    """
    return b"legation agent renews its expired certificate, v1\n" + nonce + sha256(csr).digest()
