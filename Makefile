# Everything runs in a virtual environment of its own, which the first command that needs it makes. Nothing is needed
# but Linux, make, and a Python 3.10 or newer with its venv module:
#
#     make demo       real gunicorn, four slow requests, and their stacks
#     make test       the tests                        make test ARGS="-k gunicorn -x"
#     make check      lint, types, contracts
#     make bench      the measurements                 make bench ARGS="--quick dump read"
#     make bench-page the measurements, and docs/benchmarks.md from them
#
# Another interpreter: make test PYTHON=python3.13 VENV=.venv-3.13

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

BIN := $(VENV)/bin
# Commands are run as modules: the scripts in bin/ name an interpreter by its path and break when the folder is moved.
RUN := $(BIN)/python -m
PIP := $(RUN) pip --disable-pip-version-check --quiet

.PHONY: help demo test check lint format types contracts bench bench-page uwsgi dist clean
.DELETE_ON_ERROR:

help:
	@sed -n '/^#     make/s/^#    //p' Makefile

# Only a finished environment gets its stamp, so that one that broke off half-way is made afresh.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "$(PYTHON) is older than 3.10: name another one, as in  make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || { echo "$(PYTHON) cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@touch $@

# One stamp for each extra of pyproject.toml; its file is newer than what it was made from.
$(VENV)/.with-%: pyproject.toml setup.cfg $(VENV)/.made
	@echo "Installing wsgi-tracebacker[$*] into $(VENV)"
	@$(PIP) install --editable '.[$*]'
	@touch $@

# uWSGI has to be compiled. Without a compiler its tests are skipped, except under CI=true, where it has to be there.
$(VENV)/.with-uwsgi: $(VENV)/.made
	@if ! command -v $${CC:-gcc} >/dev/null; then \
	    echo "No C compiler: uWSGI is not installed; the tests with it are skipped, or fail under CI=true."; [ "$(CI)" != true ]; \
	elif echo "Compiling uWSGI into $(VENV)"; \
	        $(PIP) install --use-pep517 'uWSGI>=2.0.29,<2.1' >$(VENV)/uwsgi.log 2>&1; then \
	    touch $@; \
	else \
	    echo "uWSGI did not compile ($(VENV)/uwsgi.log says why; 'make uwsgi' tries again); the tests with it are skipped, or fail under CI=true."; \
	    if [ "$(CI)" = true ]; then tail -n 20 $(VENV)/uwsgi.log; exit 1; fi; touch $@; \
	fi

uwsgi:
	@rm -f $(VENV)/.with-uwsgi
	@$(MAKE) --no-print-directory $(VENV)/.with-uwsgi

demo: $(VENV)/.with-example
	@$(RUN) example_app.demo

test: $(VENV)/.with-test $(VENV)/.with-uwsgi
	@$(RUN) pytest $(ARGS)

check: lint types contracts

lint: $(VENV)/.with-lint
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .

format: $(VENV)/.with-lint
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .

# The tests' own libraries are needed to check the tests' types.
types: $(VENV)/.with-lint $(VENV)/.with-test
	@$(RUN) mypy

contracts: $(VENV)/.with-lint
	@$(BIN)/python -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'

bench: $(VENV)/.with-bench $(VENV)/.with-uwsgi
	@command -v wrk >/dev/null || echo "wrk is not installed (apt-get install wrk): servers under load are left out" >&2
	@$(RUN) bench $(ARGS)

bench-page: $(VENV)/.with-bench $(VENV)/.with-uwsgi
	@$(RUN) bench --json docs/benchmarks.json
	@$(RUN) docs.measurements

dist: $(VENV)/.with-dev
	@$(RUN) build

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
