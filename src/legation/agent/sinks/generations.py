"""Generations of files: each written as a whole, put in force by one rename, kept for the way back.

::

    DIRECTORY/.7/chain.pem …      the previous generation
    DIRECTORY/.8/chain.pem …
    DIRECTORY/current -> .8       what servers name in their configuration

The directories belong to the agent, so that a server that was taken over cannot lead the
agent's writes elsewhere by links of its own. The files belong to whom the sink names.
"""

import contextlib
import grp
import json
import os
import pwd
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from legation.agent.private_files import read_bounded, sync_directory
from legation.agent.sinks.model import Generation
from legation.errors import InvalidInput, LegationError, NotFound, Unavailable

CURRENT = "current"
_RECORD = ".generation.json"
_RECORD_LIMIT = 1 << 14
_FILE_LIMIT = 1 << 20
_NUMBERED = re.compile(r"\.([0-9]{1,15})(\.draft)?\Z", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may read the files.

    Attributes:
        uid: owner, or -1 for the agent's own user.
        gid: group, or -1 for the agent's own group.
        mode: of the files.
    """

    uid: int = -1
    gid: int = -1
    mode: int = 0o600

    @property
    def directory_mode(self) -> int:
        """Mode of the directories: to be passed through by whoever may read the files."""
        if self.gid != -1:
            return 0o710
        return 0o700 if self.uid == -1 else 0o711


def access_of(owner: str | None, group: str | None, mode: int) -> Access:
    """Look up a user and a group, by name or number.

    Raises:
        InvalidInput: there is no such user or group.
    """
    try:
        uid = -1 if owner is None else int(owner) if owner.isdigit() else pwd.getpwnam(owner).pw_uid
        gid = -1 if group is None else int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise InvalidInput(f"there is no such user or group: {error.args[0]}") from None
    return Access(uid=uid, gid=gid, mode=mode)


class Generations:
    """The generations below one directory."""

    def __init__(self, directory: Path, access: Access) -> None:
        self._directory = directory
        self._access = access

    @property
    def current_path(self) -> Path:
        """What servers name."""
        return self._directory / CURRENT

    def prepare(self) -> None:
        """Make the directory, and clear away what an interrupted run left half written.

        Raises:
            InvalidInput: it belongs to somebody else, or others may write to it.
            Unavailable: the disk refuses.
        """
        with _disk(self._directory):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self._directory.stat(follow_symlinks=False)
            if status.st_uid != os.geteuid():
                raise InvalidInput(
                    f"{self._directory} belongs to user {status.st_uid}",
                    remedy="give the sink a directory of its own; the agent makes it",
                )
            self._permit(self._directory)
            for draft in self._directory.glob(".*.draft"):
                shutil.rmtree(draft)

    def current(self) -> Generation | None:
        """Return the generation in force, or None if there is none that can be told."""
        try:
            found = _NUMBERED.match(self.current_path.readlink().name)
            return self._read(int(found[1])) if found else None
        except (OSError, LegationError):
            return None

    def next_number(self) -> int:
        """Return a number above every other."""
        return max(self._numbers(), default=0) + 1

    def write(self, generation: Generation, contents: Mapping[str, bytes]) -> None:
        """Write a generation beside the others; on disk when this returns.

        Raises:
            Unavailable: the disk refuses, or the owner cannot be given.
        """
        final = self._path(generation.number)
        draft = final.with_name(f"{final.name}.draft")
        record = json.dumps(generation.to_value(), indent=1).encode()
        with _disk(draft):
            try:
                draft.mkdir(mode=0o700)
                for name, content in contents.items():
                    _write(draft / name, content, self._access)
                _write(draft / _RECORD, record, Access())
                self._permit(draft)
                sync_directory(draft)
                draft.rename(final)
                sync_directory(self._directory)
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise

    def read(self, generation: Generation, name: str) -> bytes:
        """Return what is in a file of a generation; nothing if it has no such file.

        Raises:
            LegationError: it cannot be read.
        """
        path = self._path(generation.number) / name
        return read_bounded(path, limit=_FILE_LIMIT) if path.exists() else b""

    def replace(self, generation: Generation, name: str, content: bytes) -> None:
        """Replace one file of a generation, atomically; on disk when this returns.

        Raises:
            Unavailable: the disk refuses, or the owner cannot be given.
        """
        directory = self._path(generation.number)
        draft = directory / f".{name}.new"
        with _disk(directory / name):
            draft.unlink(missing_ok=True)
            _write(draft, content, self._access)
            draft.rename(directory / name)
            sync_directory(directory)

    def switch(self, number: int) -> None:
        """Put a generation in force, atomically.

        Raises:
            Unavailable: the disk refuses.
        """
        draft = self._directory / f".{CURRENT}.new"
        with _disk(self.current_path):
            draft.unlink(missing_ok=True)
            draft.symlink_to(self._path(number).name)
            draft.rename(self.current_path)
            sync_directory(self._directory)

    def prune(self, keep: Collection[int]) -> None:
        """Remove all generations but those in `keep`.

        Raises:
            Unavailable: the disk refuses.
        """
        with _disk(self._directory):
            for number in self._numbers() - set(keep):
                shutil.rmtree(self._path(number))

    def _numbers(self) -> set[int]:
        found = (_NUMBERED.match(path.name) for path in self._directory.iterdir())
        return {int(match[1]) for match in found if match and not match[2]}

    def _path(self, number: int) -> Path:
        return self._directory / f".{number}"

    def _read(self, number: int) -> Generation:
        data = read_bounded(self._path(number) / _RECORD, limit=_RECORD_LIMIT)
        generation = Generation.from_bytes(data)
        if generation.number != number:
            raise NotFound(f"{self._path(number)} is not what its record says")
        return generation

    def _permit(self, directory: Path) -> None:
        os.chown(directory, -1, self._access.gid)
        directory.chmod(self._access.directory_mode)


def _write(path: Path, content: bytes, access: Access) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        # In this order CAP_CHOWN is enough: the mode of another's file would need CAP_FOWNER.
        os.fchmod(file.fileno(), access.mode)
        os.fchown(file.fileno(), access.uid, access.gid)
        os.fsync(file.fileno())


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise Unavailable(
            f"{path} cannot be written: {error.strerror}",
            remedy="files for another user or group need an agent with CAP_CHOWN",
        ) from None
    except OSError as error:
        raise Unavailable(f"{path} cannot be written: {error.strerror}") from None
