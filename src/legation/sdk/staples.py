"""The OCSP responses that the agent gives this process to staple to its certificates.

Pure: bytes in, bytes out. One thread writes, any number of others ask.
"""

import logging
import re
from collections.abc import Iterable
from datetime import datetime

from legation.errors import InvalidInput, LegationError, LimitExceeded
from legation.pki.ocsp import MAX_RESPONSE_SIZE, Staple, check_staple
from legation.sdk.model import X509SVID

# A process has a certificate or two at a time: the one in use, and the one that follows it.
MAX_STAPLES = 8
_SERIAL = re.compile(r"[0-9a-f]{1,40}", re.ASCII)

_log = logging.getLogger(__name__)


class Staples:
    """The newest response about each of the last few certificates.

    A response and the certificate that it is about come on different streams, in any order.
    When both are there, the response is checked as a client would check it.
    """

    def __init__(self) -> None:
        self._unchecked: dict[int, bytes] = {}
        self._checked: dict[int, Staple] = {}

    def receive(self, serial: str, response: bytes) -> None:
        """Take in a response about the certificate with this serial number.

        Raises:
            InvalidInput: not a serial number.
            LimitExceeded: the response is too long.
        """
        if not _SERIAL.fullmatch(serial):
            raise InvalidInput("the agent sent a staple for what is no serial number")
        if len(response) > MAX_RESPONSE_SIZE:
            raise LimitExceeded(f"the agent sent a staple of more than {MAX_RESPONSE_SIZE} bytes")
        number = int(serial, 16)
        self._unchecked.pop(number, None)  # the newest stand at the end
        self._unchecked[number] = response
        for oldest in list(self._unchecked)[:-MAX_STAPLES]:
            del self._unchecked[oldest]

    def check(self, svids: Iterable[X509SVID], *, at: datetime) -> None:
        """Check what came about these certificates. What does not clear them is let go."""
        for svid in svids:
            response = self._unchecked.pop(svid.serial, None)
            if response is None or len(svid.chain) < 2:  # no issuer, nobody to check it
                continue
            try:
                staple = check_staple(
                    response, serial=svid.serial, issuer_certificate=svid.chain[1], at=at
                )
            except LegationError as error:
                _log.warning("certificate %x is not stapled: %s", svid.serial, error)
                continue
            kept = [each for each in self._checked.items() if each[0] != svid.serial]
            # Replaced, not changed: others read it.
            self._checked = dict([*kept[1 - MAX_STAPLES :], (svid.serial, staple)])

    def knows(self, serial: int) -> bool:
        """Tell whether there is a response about a certificate, checked or not."""
        return serial in self._checked or serial in self._unchecked

    def staple(self, serial: int, *, at: datetime) -> bytes | None:
        """Return the response about a certificate, DER, if it counts at this moment."""
        staple = self._checked.get(serial)
        if staple is None or not staple.this_update <= at < staple.next_update:
            return None
        return staple.der
