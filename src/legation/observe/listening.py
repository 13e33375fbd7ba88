"""What both roles' listeners for metrics say when their address cannot be used."""

import contextlib
from collections.abc import Iterator

from legation.errors import Unavailable


@contextlib.contextmanager
def about_metrics() -> Iterator[None]:
    """Name the setting in an error about the address.

    Raises:
        Unavailable: as what is done inside, with the setting named.
    """
    try:
        yield
    except Unavailable as error:
        raise Unavailable(
            f"listen.metrics: {error.message}",
            remedy="set listen.metrics to an address that nobody uses, or leave it out",
        ) from None
