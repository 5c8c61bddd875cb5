# Every target sets up what it needs: python3 (3.11 or newer), git and make are enough to begin with.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
export UV_PYTHON_DOWNLOADS := never
export UV_DEFAULT_INDEX ?= $(shell $(PYTHON) -m pip config get global.index-url 2>/dev/null)
ifeq ($(UV_DEFAULT_INDEX),)
unexport UV_DEFAULT_INDEX
endif
UP_ARGS ?=
TEST_WORKERS ?= 2

.PHONY: up test prove check bench test-vllm test-browser setup assets lock wheel clean format

.venv/.ready: pyproject.toml requirements/dev.txt requirements/uv.txt requirements/peers.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Interlock needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --require-hashes --no-deps -r requirements/uv.txt
	$(BIN)/uv pip sync -q --python $(BIN)/python --require-hashes requirements/dev.txt
	$(BIN)/pip install -q --require-hashes --no-deps --ignore-requires-python -r requirements/peers.txt
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

setup: .venv/.ready assets

assets: .venv/.ready
	$(BIN)/python scripts/assets.py --tests --try
	$(BIN)/python scripts/native.py --try

lock:
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --all-extras --group dev pyproject.toml -o requirements/dev.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate -c requirements/dev.txt pyproject.toml -o requirements/run.txt
	awk '/^uv==/{p=1} p&&/^[a-z]/&&!/^uv==/{exit} p' requirements/dev.txt > requirements/uv.txt
	! grep -n '://' requirements/*.txt

up: .venv/.ready assets
	$(BIN)/interlock up --demo $(UP_ARGS)

check: .venv/.ready
	$(BIN)/ruff format --check src tests bench scripts
	$(BIN)/ruff check src tests bench scripts
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_tree.py

test: .venv/.ready assets
	$(BIN)/python scripts/browser_setup.py
	$(BIN)/pytest -n $(TEST_WORKERS) $(PYTEST_ARGS)

prove: .venv/.ready assets
	$(BIN)/python -m tests.prove $(PROVE_ARGS)

bench: .venv/.ready assets
	$(BIN)/python -m bench.run $(BENCH_ARGS)

test-browser: .venv/.ready assets
	$(BIN)/python scripts/browser_setup.py
	$(BIN)/pytest $(PYTEST_ARGS) tests/e2e/console

test-vllm: .venv/.ready
	$(BIN)/python scripts/vllm_setup.py
	$(BIN)/pytest -m vllm $(PYTEST_ARGS) tests/vllm

wheel: .venv/.ready
	rm -rf dist
	$(BIN)/python -m hatchling build -t wheel

format: .venv/.ready
	$(BIN)/ruff format src tests bench scripts
	$(BIN)/ruff check --fix src tests bench scripts

clean:
	rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
