"""Identity and trust from PEM files that somebody else renews: an agent's file sink, a secret
volume of Kubernetes, certbot's hooks, a person.
"""

import contextlib
import logging
import os
import stat
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from legation.clock import Clock, SystemClock
from legation.errors import InvalidInput, LegationError, LimitExceeded, NotFound, Unavailable
from legation.pki.bundle import TrustBundle
from legation.pki.crl import MAX_CRL_SIZE, RevocationList
from legation.pki.encoding import certificates_from_pem, private_key_from_pem
from legation.pki.pem import decode_one
from legation.pki.spiffe_id import TrustDomain
from legation.pki.verification import Purpose, verify_svid
from legation.sdk.core import SourceCore
from legation.sdk.knowledge import Knowledge, RevocationData
from legation.sdk.model import X509SVID, Aspect
from legation.sdk.workload import identity_of, made_svid

POLL_S = 1.0
_MAX_PEM_BYTES = 1 << 20
_CLOSE_WITHIN_S = 5.0

_log = logging.getLogger(__name__)

# What tells one state of a file from another: a rewrite in place, a rename over it, and a
# symbolic link that points elsewhere all change it.
_Stamp = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    """Where everything is."""

    certificate: Path
    private_key: Path
    bundle: Path
    crls: tuple[Path, ...]
    federated: Mapping[TrustDomain, Path]

    def all(self) -> tuple[Path, ...]:
        return (
            self.certificate,
            self.private_key,
            self.bundle,
            *self.crls,
            *self.federated.values(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    svid: X509SVID
    bundles: Mapping[TrustDomain, TrustBundle]
    crls: tuple[bytes, ...]


class FileSource(SourceCore):
    """A source of PEM files. It looks for changes every second, in a thread of its own.

    What changed is taken over when all of it fits together: the key is the certificate's, the
    chain leads to the trust bundle, nothing has expired, every list can be read. Until then
    the view stays as it was, and `problem` and the log say why. There are no policies, so
    `decide` denies.

    Args:
        certificate: the chain, leaf first.
        private_key: of the leaf; unencrypted.
        bundle: authorities of the identity's own trust domain.
        crls: revocation lists, PEM or DER. With none, revocation is not checked; with any,
            every peer must be covered by a current one.
        federated: files with the authorities of other trust domains, by name.
        clock: tells what has expired.
        poll_s: how often to look, in seconds.

    Attributes:
        problem: why the files as they are now are not in use, or None.

    Raises:
        NotFound, Unavailable: a file is missing, or cannot be read.
        InvalidInput: one does not hold what it should, or they do not fit together.
        VerificationError: the chain does not lead to the bundle, or has expired.
    """

    def __init__(
        self,
        *,
        certificate: str | os.PathLike[str],
        private_key: str | os.PathLike[str],
        bundle: str | os.PathLike[str],
        crls: Collection[str | os.PathLike[str]] = (),
        federated: Mapping[str, str | os.PathLike[str]] | None = None,
        clock: Clock | None = None,
        poll_s: float = POLL_S,
    ) -> None:
        super().__init__(Knowledge(clock or SystemClock()))
        self.problem: LegationError | None = None
        self._poll_s = poll_s
        self._files = _Files(
            certificate=Path(certificate),
            private_key=Path(private_key),
            bundle=Path(bundle),
            crls=tuple(Path(path) for path in crls),
            federated={TrustDomain(name): Path(path) for name, path in (federated or {}).items()},
        )
        self._expired: int | None = None
        # Stamped before they are read: what changes in between is read again.
        self._stamps = self._stamped()
        self._take(self._read())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="legation files", daemon=True)
        self._thread.start()

    def wait_ready(self, timeout: float | None = None) -> None:
        """Return at once: a source of files is ready, or was not made."""

    def close(self) -> None:
        """Stop looking, and have no view any more."""
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(_CLOSE_WITHIN_S)
        self.knowledge.abandon(Unavailable("the source is closed"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def look(self) -> None:
        """Look for changes now, instead of within `poll_s`."""
        stamps = self._stamped()
        if stamps != self._stamps or self.problem is not None:
            try:
                content = self._read()
            except LegationError as error:
                if str(error) != str(self.problem):
                    _log.warning("the files have changed and are not used: %s", error)
                self.problem = error
            else:
                self._take(content)
            self._stamps = stamps
        self._tell_expiry()

    def _run(self) -> None:
        while not self._stop.wait(self._poll_s):
            try:
                self.look()
            except Exception:
                _log.exception("looking for changed files failed")

    def _take(self, content: _Content) -> None:
        self.problem = None
        change = self.knowledge.show((content.svid,), content.bundles, content.crls)
        self.knowledge.revocation_data = RevocationData.LISTS
        if change:
            self.publish(change)

    def _tell_expiry(self) -> None:
        view = self.knowledge.held
        if view is None or view.svid.not_after > self.knowledge.clock.now():
            return
        if self._expired != view.svid.serial:
            self._expired = view.svid.serial
            self.publish(frozenset({Aspect.IDENTITY}))

    def _stamped(self) -> tuple[_Stamp | None, ...]:
        return tuple(_stamp(path) for path in self._files.all())

    def _read(self) -> _Content:
        files = self._files
        chain = certificates_from_pem(_content(files.certificate))
        svid = made_svid(
            identity_of(chain[0]), chain, private_key_from_pem(_content(files.private_key))
        )
        trust_domain = svid.spiffe_id.trust_domain
        bundles = {
            name: TrustBundle.from_pem(name, _content(path))
            for name, path in files.federated.items()
        }
        bundles[trust_domain] = TrustBundle.from_pem(trust_domain, _content(files.bundle))
        self._check(svid, bundles[trust_domain])
        return _Content(svid=svid, bundles=bundles, crls=tuple(map(_list, files.crls)))

    def _check(self, svid: X509SVID, bundle: TrustBundle) -> None:
        """Hold the chain against the bundle, as a peer will."""
        at = self.knowledge.clock.now()
        with contextlib.suppress(LegationError):
            # It need not be good for both uses.
            verify_svid(svid.chain, bundle=bundle, at=at, purpose=Purpose.CLIENT)
            return
        verify_svid(svid.chain, bundle=bundle, at=at, purpose=Purpose.SERVER)


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_dev, found.st_size


def _content(path: Path, *, limit: int = _MAX_PEM_BYTES) -> bytes:
    try:
        # A named pipe would keep the thread for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InvalidInput(f"{path} is not a file")
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}") from None
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > limit:
        raise LimitExceeded(f"{path} has more than {limit} bytes")
    return data


def _list(path: Path) -> bytes:
    """Read a revocation list, which tools write as PEM or as DER."""
    data = _content(path, limit=2 * MAX_CRL_SIZE)
    if data.lstrip().startswith(b"-----BEGIN"):
        what = "certificate revocation list"
        data = decode_one(data, labels=("X509 CRL",), what=what, limit=MAX_CRL_SIZE)
    _ = RevocationList.from_der(data).entries
    return data
