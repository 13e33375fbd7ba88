"""The trust bundles that peers may hold at the moment.

A bundle changes here when the feed says so. Peers behind other agents change a little later,
and verify what we present with what they hold. Until the authority says that every connected
enforcement point has the change in force, the bundle before counts, too.
"""

from legation.pki import TrustBundle

# A peer so far behind is told of its own accord; see `legation status`.
_MOST = 4


class PeerBundles:
    """Remembers bundles until nobody holds them any more."""

    def __init__(self, current: TrustBundle) -> None:
        self._current = current
        self._former: list[tuple[int, TrustBundle]] = []
        self._told = False

    @property
    def former(self) -> tuple[TrustBundle, ...]:
        """The bundles before the current one that peers may hold, the newest first.

        None while the authority does not say how far its enforcement points are: there would
        be no end to it.
        """
        return tuple(bundle for _, bundle in reversed(self._former)) if self._told else ()

    def changed(self, bundle: TrustBundle, *, revision: int) -> None:
        """From this revision of the feed on, `bundle` is the current one."""
        if bundle == self._current:
            return
        self._former.append((revision, self._current))
        self._former = [item for item in self._former if item[1] != bundle][-_MOST:]
        self._current = bundle

    def acknowledged(self, revision: int) -> None:
        """Every connected enforcement point has this revision in force; 0 for not known."""
        self._told = revision > 0
        self._former = [(since, bundle) for since, bundle in self._former if since > revision]
