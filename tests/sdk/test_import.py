"""What an application gets when it imports the SDK."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import legation
import legation.sdk

ALLOWED = {"cryptography", "google", "grpc", "legation"}
# Come along with those, or with the interpreter's own environment.
COMPANIONS = {"_cffi_backend", "_cython", "cython_runtime", "grpc_tools", "typing_extensions"}
SERVICES = ("agent", "authority", "cli", "config", "demo", "envoy", "proxy")


def loaded(code):
    """Return the modules that `code` loads in an interpreter of its own."""
    script = f"import json, sys; before = set(sys.modules)\n{code}\n"
    script += "print(json.dumps(sorted(set(sys.modules) - before)))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(run.stdout))


@pytest.mark.parametrize("name", legation.sdk.__all__)
def test_every_name_is_there(name):
    """What `__all__` promises can be imported, and is listed."""
    assert getattr(legation.sdk, name) is not None
    assert name in dir(legation.sdk)


def test_a_name_that_is_not_there():
    """A misspelt name is an AttributeError as in any module."""
    with pytest.raises(AttributeError, match="no attribute 'X509Sauce'"):
        _ = legation.sdk.X509Sauce


def test_the_package_alone_loads_next_to_nothing():
    """`import legation.sdk` loads no third-party package at all."""
    modules = loaded("import legation.sdk")
    assert {name.partition(".")[0] for name in modules} & {"cryptography", "grpc"} == set()


def test_sources_need_cryptography_and_grpc_alone():
    """All sources together load nothing beyond the two libraries, and none of our services."""
    modules = loaded("from legation.sdk import *")
    tops = {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names)
    strangers = {
        top
        for top in tops - ALLOWED
        if not top.startswith(tuple(COMPANIONS)) and not top.startswith("_")
    }
    assert strangers == set()
    assert not [
        name for name in modules if name.startswith(tuple(f"legation.{s}" for s in SERVICES))
    ]
    assert "legation.wire.feed" not in modules


def test_it_is_typed():
    """Type checkers are told that the package has types."""
    assert Path(legation.__file__).with_name("py.typed").exists()
