"""OCSP responses through HAProxy's runtime interface.

`set ssl ocsp-response` renews the response about a certificate that has had one since it was
loaded; nothing else is touched. The first one, and none, come with a commit of the certificate:
HAProxy forgets the response with the certificate before, even if it is the same.
"""

import base64
from collections.abc import Awaitable, Callable
from pathlib import Path

from legation.errors import Unavailable
from legation.pki.ocsp import says_nothing

_UPDATED = b"ocsp response updated"
_TAKEN = b"transaction updated for"

Ask = Callable[[bytes], Awaitable[bytes]]


async def renew(ask: Ask, response: bytes) -> bool:
    """Renew the response of a loaded certificate; return False if that takes a commit."""
    if says_nothing(response):
        return False
    answer = await ask(b"set ssl ocsp-response <<\n%s\n\n" % base64.b64encode(response))
    return answer.lower().startswith(_UPDATED)


async def accompany(ask: Ask, certificate: Path, response: bytes) -> None:
    """Add the response to the transaction that is open for a certificate.

    Raises:
        Unavailable: HAProxy does not take it; the transaction is closed.
    """
    if says_nothing(response):
        return
    name = bytes(certificate)
    command = b"set ssl cert %s.ocsp <<\n%s\n\n" % (name, base64.b64encode(response))
    answer = await ask(command)
    if not answer.lower().startswith(_TAKEN):
        await ask(b"abort ssl cert %s\n" % name)
        words = " ".join(answer.decode("ascii", "replace").split())[:200]
        raise Unavailable(f"HAProxy does not take the OCSP response of {certificate}: {words!a}")
