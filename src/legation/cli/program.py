"""Runs a program with an identity beside it, and stands out of its way."""

import contextlib
import logging
import os
import select
import shlex
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from legation.cli.configured import Flags
from legation.cli.identity_files import IdentityFiles
from legation.config.secret_files import JOIN_TOKEN_VARIABLE
from legation.errors import LegationError
from legation.sdk import Change, X509Source

if TYPE_CHECKING:
    from legation.cli.own_agent import OwnAgent

ENDPOINT = "SPIFFE_ENDPOINT_SOCKET"
DEFAULT_SOCKET = Path("/run/legation/agent.sock")
NOT_FOUND, NOT_EXECUTABLE, BY_SIGNAL = 127, 126, 128  # as POSIX shells have them
_COMMAND_S = 60.0
_FORWARDED = frozenset(
    {
        signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1,
        signal.SIGUSR2, signal.SIGCONT, signal.SIGWINCH, signal.SIGALRM,
    }
)  # fmt: skip
_SI_KERNEL = 0x80  # include/uapi/asm-generic/siginfo.h; of signals that a terminal sends

_Action = tuple[int, int, str, int, int]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramRun:
    """What to run, and what it gets.

    Attributes:
        argv: the program and its arguments.
        socket: the agent's, or None for what the environment says.
        spiffe_id: which identity, or None for the first.
        directory: where the files go, or None for a temporary one.
        signal_name: sent to the program when they change, or None.
        on_rotate: a command line to run when they change, or None.
        wait_s: how long the first identity may take.
        agent: configuration of an agent of its own, by key; None to use the one at `socket`.
    """

    argv: tuple[str, ...]
    socket: Path | None = None
    spiffe_id: str | None = None
    directory: Path | None = None
    signal_name: str | None = None
    on_rotate: str | None = None
    wait_s: float = 30.0
    agent: Flags | None = None


def run_program(request: ProgramRun, *, environment: Mapping[str, str] | None = None) -> int:
    """Run it; return the exit status to leave with.

    To be called in the main thread, before there are others: signals wait for us until
    there is a program to pass them on to.

    Raises:
        LegationError: there is no identity, or the files cannot be written.
    """
    variables = os.environ if environment is None else environment  # noqa: TID251 - read here
    # Blocked before any other thread is there, so that none of them takes a signal away.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED | {signal.SIGCHLD})
    try:
        with contextlib.ExitStack() as stack:
            source, endpoint = _source(stack, request, variables)
            files = IdentityFiles(request.directory)
            stack.callback(files.remove)
            view = source.view()
            files.write(view)
            given = {
                # A join token is spent, or another's; it is none of the program's business.
                **{key: text for key, text in variables.items() if key != JOIN_TOKEN_VARIABLE},
                **files.variables(),
                ENDPOINT: endpoint,
                "LEGATION_SPIFFE_ID": str(view.svid.spiffe_id),
            }
            return _run(request, given, source, files)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _source(
    stack: contextlib.ExitStack, request: ProgramRun, environment: Mapping[str, str]
) -> tuple[X509Source, str]:
    """Return a source with an identity, and where it comes from."""
    own = None if request.agent is None else _own_agent(stack, request.agent)
    endpoint = _endpoint(own.socket if own else request.socket, environment)
    source = stack.enter_context(
        X509Source(endpoint, spiffe_id=request.spiffe_id, name="legation run")
    )
    try:
        source.wait_ready(request.wait_s)
    except LegationError as error:
        raise (own.explained(error) if own else error) from None
    return source, endpoint


def _own_agent(stack: contextlib.ExitStack, flags: Flags) -> "OwnAgent":
    """Start an agent for as long as `stack`."""
    # A whole agent takes longer to import than everything else here.
    from legation.cli.own_agent import OwnAgent

    return stack.enter_context(OwnAgent(flags))


def _run(
    request: ProgramRun, environment: Mapping[str, str], source: X509Source, files: IdentityFiles
) -> int:
    try:
        child = _Child(request.argv, environment)
    except FileNotFoundError:
        _log.error("there is no program %s", request.argv[0])
        return NOT_FOUND
    except OSError as error:
        _log.error("%s cannot be run: %s", request.argv[0], error.strerror)
        return NOT_EXECUTABLE
    rotation = _Rotation(request, environment, source, files, child)
    unsubscribe = source.subscribe(rotation.changed)
    rotation.changed()  # what has changed before we listened
    try:
        return child.wait()
    finally:
        unsubscribe()
        rotation.stop()


class _Child:
    """The program, as a child process with default signals."""

    def __init__(self, argv: tuple[str, ...], environment: Mapping[str, str]) -> None:
        self._lock = threading.Lock()
        self._ended = False
        self._pid = _spawn(argv, environment)

    def signal(self, number: int) -> None:
        """Send a signal, unless the program has ended: its number may be another's by then."""
        with self._lock:
            if not self._ended:
                os.kill(self._pid, number)

    def wait(self) -> int:
        """Pass signals on until the program ends; return its exit status."""
        while True:
            got = signal.sigwaitinfo(_FORWARDED | {signal.SIGCHLD})
            if got.si_signo == signal.SIGCHLD:
                with self._lock:
                    pid, status = os.waitpid(self._pid, os.WNOHANG)
                    self._ended = pid == self._pid
                if self._ended:
                    code = os.waitstatus_to_exitcode(status)
                    return code if code >= 0 else BY_SIGNAL - code
            elif got.si_code != _SI_KERNEL:
                # What a terminal sends, it sends to the program as well.
                self.signal(got.si_signo)


class _Rotation:
    """Brings the files up to date, one change after the other, and tells the program."""

    def __init__(
        self,
        request: ProgramRun,
        environment: Mapping[str, str],
        source: X509Source,
        files: IdentityFiles,
        child: _Child,
    ) -> None:
        self._request = request
        self._environment = environment
        self._source = source
        self._files = files
        self._child = child
        self._due = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="rotation", daemon=True)
        self._thread.start()

    def changed(self, _change: Change = frozenset()) -> None:
        """Say that something may have changed. Never waits."""
        self._due.set()

    def stop(self) -> None:
        """Finish what is being done, and do no more."""
        self._stopped = True
        self._due.set()
        self._thread.join(_COMMAND_S)

    def _work(self) -> None:
        while True:
            self._due.wait()
            self._due.clear()
            if self._stopped:
                return
            try:
                if self._files.write(self._source.view()):
                    self._tell()
            except LegationError as error:
                _log.warning("the identity's files stay as they are: %s", error)

    def _tell(self) -> None:
        if self._request.signal_name is not None:
            self._child.signal(signal.Signals[f"SIG{self._request.signal_name}"])
        if self._request.on_rotate is not None:
            _execute(self._request.on_rotate, self._environment)


def _execute(command: str, environment: Mapping[str, str]) -> None:
    try:
        # No input: the terminal is the program's.
        no_input = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
        pid = _spawn(tuple(shlex.split(command)), environment, no_input)
    except (OSError, ValueError) as error:
        _log.warning("--on-rotate cannot be run: %s", error)
        return
    pidfd = os.pidfd_open(pid)
    try:
        if not select.select([pidfd], [], [], _COMMAND_S)[0]:
            _log.warning("--on-rotate takes too long, and is ended")
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(pidfd)
    if code := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        _log.warning("--on-rotate ended with status %d", code)


def _spawn(argv: tuple[str, ...], environment: Mapping[str, str], *actions: _Action) -> int:
    """Start a program with no signal blocked, which `subprocess` has no way to say."""
    if not argv:
        raise ValueError("there is no program to run")
    return os.posix_spawnp(
        argv[0],
        argv,
        environment,
        file_actions=actions,
        setsigmask=(),
        setsigdef=(signal.SIGPIPE,),
    )


def _endpoint(socket: Path | None, environment: Mapping[str, str]) -> str:
    if socket is not None:
        return f"unix://{socket.absolute()}"
    return environment.get(ENDPOINT) or f"unix://{DEFAULT_SOCKET}"
