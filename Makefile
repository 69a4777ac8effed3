# make demo   the whole pipeline on small synthetic corpora: ingest, train, calibrate, score, evaluate
# make test   everything that CI runs
# make check  its fast part: format, lint, types, import contracts
# make lock   resolve the dependencies again into constraints.txt

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check lock clean
.DEFAULT_GOAL := test

demo: .venv/installed
	$(BIN)/bonafide demo --out demo

# Its many processes import our modules, which Python then compiles once, also where PYTHONDONTWRITEBYTECODE is set.
test: check
	PYTHONDONTWRITEBYTECODE= $(BIN)/pytest --numprocesses 3

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Ray starts a process for each worker. Compiling the libraries here halves the start time where
# PYTHONDONTWRITEBYTECODE is set, as in many images.
# The stamp file is newer than the files that define the environment, so an unchanged environment is reused.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "bonafide needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.9"
	VIRTUAL_ENV=.venv UV_HTTP_TIMEOUT=300 $(BIN)/uv pip install --compile-bytecode --constraint constraints.txt --editable '.[demo]' --group dev
	@touch $@

lock: .venv/installed
	$(BIN)/uv pip compile pyproject.toml --extra demo --group dev --universal --python-version 3.11 --upgrade \
		--no-header --no-annotate --output-file constraints.txt

clean:
	rm -rf .venv demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache
