"""Real container engines for the tests that can have them."""

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.support.engines import AVAILABLE, RealEngines


@pytest.fixture(scope="session")
def engines():
    if not AVAILABLE:
        pytest.skip("needs root, Docker, containerd and busybox")
    # Not below tmp_path: a socket's path has at most 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="engines-", dir="/tmp"))
    engines = RealEngines(directory)
    try:
        if not engines.wait():
            pytest.skip("Docker cannot run here: " + (directory / "log").read_text()[-300:])
        engines.load()
        yield engines
    finally:
        engines.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def short_directory():
    """A directory with a path short enough for a socket."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield Path(directory)
