"""Fixtures that every part of the suite may use."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "default", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("default")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--trials",
        type=int,
        default=None,
        help="repeat crash and revocation trials this often, instead of their own default",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        whole = item.path.relative_to(here).parts[0] in {"system", "docs"}
        if whole and item.get_closest_marker("together") is None:
            item.add_marker(pytest.mark.alone)


@pytest.fixture
def trials(request: pytest.FixtureRequest) -> int | None:
    """The number of trials asked for on the command line, or None."""
    value: int | None = request.config.getoption("--trials")
    return value


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A temporary directory whose path is short enough for Unix sockets (108 bytes)."""
    directory = Path(tempfile.mkdtemp(prefix="lg-", dir="/tmp"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def child_environment() -> dict[str, str]:
    """The environment for child processes, without anything that would configure Legation."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LEGATION_")}
