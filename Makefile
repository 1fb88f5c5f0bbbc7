# Everything runs in a virtual environment of its own, which the first command that needs it makes. Nothing is needed
# but Linux, make, and a Python 3.10 or newer with its venv module:
#
#     make demo       real gunicorn, five requests that hang, and why
#     make test       the tests, within eight minutes   make test ARGS="-k gunicorn -x"
#     make test-all   all of them: every kind of server, and what is slow; then `make fuzz`, `make soak` and `make waits`
#     make check      lint, types, contracts
#     make bench      the measurements                 make bench ARGS="--quick dump read"
#     make bench ARGS=recordings   what recordings are worth, beside py-spy and austin: an hour; --quick: two minutes
#     make bench-page the measurements, and docs/benchmarks.md from them; ARGS=recordings: that topic alone anew
#     make test-matrix  the unit and integration tests on every Python: those here, and as root those of a newer Debian
#     make server-table  every server's story told anew, and its tables in docs/servers.md
#     make docs       the documentation as a site, in build/docs
#     make release-check  sdist and wheel: built, installed and tried on every Python, the sdist's own tests run
#     make fuzz       the tests' properties, for as long as SECONDS says
#     make soak       a minute of every load, reader and end of a worker at once; longer: make soak SOAK_SECONDS=3600
#     make waits      ten minutes and 100,000 looks: is what is said of waits what requests really wait for?
#
# Another interpreter: make test PYTHON=python3.13 VENV=.venv-3.13
# One of the matrix: make test-matrix ARGS="--only 3.14"

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
# Tests that run at a time, on two CPUs: they wait more than they work.
JOBS ?= 4
# Of `make fuzz` and `make soak`.
SECONDS ?= 60
SOAK_SECONDS ?= 60
WAITS_SECONDS ?= 600

BIN := $(VENV)/bin
# Commands are run as modules: the scripts in bin/ name an interpreter by its path and break when the folder is moved.
RUN := $(BIN)/python -m
PIP := $(RUN) pip --disable-pip-version-check --quiet

.PHONY: help demo docs test test-all check lint format types contracts bench bench-page fuzz soak waits test-matrix uwsgi server-table dist release-check clean
.DELETE_ON_ERROR:

help:
	@sed -n '/^#     make/s/^#    //p' Makefile

# Only a finished environment gets its stamp, so that one that broke off half-way is made afresh.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "$(PYTHON) is older than 3.10: name another one, as in  make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || { echo "$(PYTHON) cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@touch $@

# A wheel before a newer release that has to be compiled: hypothesis has no wheel of its newest for PyPy.
# One stamp for each extra of pyproject.toml; its file is newer than what it was made from.
$(VENV)/.with-%: pyproject.toml setup.cfg $(VENV)/.made
	@echo "Installing wsgi-tracebacker[$*] into $(VENV)"
	@$(PIP) install --prefer-binary --editable '.[$*]'
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

# gunicorn 25 is the last one with an eventlet worker, and no environment holds two gunicorns: this one is beside ours.
$(VENV)-eventlet/.made: $(VENV)/.made
	@echo "Installing gunicorn 25 and eventlet into $(VENV)-eventlet"
	@$(BIN)/python -m venv --clear $(VENV)-eventlet
	@$(VENV)-eventlet/bin/python -m pip --disable-pip-version-check --quiet install 'gunicorn>=25.1,<26' 'eventlet>=0.41,<0.42'
	@touch $@

# Finds what keeps people out of a page. Without npm its tests are skipped, except under CI=true.
$(VENV)/.with-axe: $(VENV)/.made
	@if command -v npm >/dev/null; then \
	    echo "Installing axe-core into $(VENV)/axe"; \
	    npm install --silent --no-fund --no-audit --prefix $(VENV)/axe axe-core@4; \
	else \
	    echo "No npm: axe-core is not installed; the tests with it are skipped, or fail under CI=true."; [ "$(CI)" != true ]; \
	fi
	@touch $@

# Reads the files of recordings. As above.
$(VENV)/.with-speedscope: $(VENV)/.made
	@if command -v npm >/dev/null; then \
	    echo "Installing speedscope into $(VENV)/speedscope"; \
	    npm install --silent --no-fund --no-audit --prefix $(VENV)/speedscope speedscope@1; \
	else \
	    echo "No npm: speedscope is not installed; the tests with it are skipped, or fail under CI=true."; [ "$(CI)" != true ]; \
	fi
	@touch $@

uwsgi:
	@rm -f $(VENV)/.with-uwsgi
	@$(MAKE) --no-print-directory $(VENV)/.with-uwsgi

demo: $(VENV)/.with-example
	@$(RUN) wsgi_tracebacker demo

SERVERS := $(VENV)/.with-servers $(VENV)/.with-uwsgi $(VENV)-eventlet/.made

# First those that may run side by side, then those that measure time, each by itself. pytest ends with 5 where there is
# none among those that ARGS chooses.
run_tests = $(RUN) pytest -n $(JOBS) --dist worksteal -m "not alone $(1)" --durations 10 $(ARGS) || [ $$? = 5 ]; \
    $(RUN) pytest -m "alone $(1)" --durations 10 $(ARGS) || [ $$? = 5 ]

test: $(VENV)/.with-test $(SERVERS) $(VENV)/.with-axe
	@set -e; $(call run_tests,and not slow)

test-all: $(VENV)/.with-test $(SERVERS) $(VENV)/.with-axe $(VENV)/.with-speedscope
	@set -e; $(call run_tests)
	@$(MAKE) --no-print-directory fuzz soak waits ARGS=

check: lint types contracts

lint: $(VENV)/.with-lint
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .

format: $(VENV)/.with-lint
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .

# The tests' own libraries are needed to check the tests' types.
types: $(VENV)/.with-lint $(VENV)/.with-test $(VENV)/.with-servers
	@$(RUN) mypy

contracts: $(VENV)/.with-lint
	@$(BIN)/python -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'

# Nothing is written where a server does what its cell in tests/servers/matrix/cells.py does not say.
server-table: $(VENV)/.with-test $(SERVERS)
	@$(RUN) tests.servers.matrix $(ARGS)

bench: $(VENV)/.with-bench $(VENV)/.with-uwsgi
	@command -v wrk >/dev/null || echo "wrk is not installed (apt-get install wrk): servers under load are left out" >&2
	@$(RUN) bench $(ARGS)

bench-page: $(VENV)/.with-bench $(VENV)/.with-uwsgi
	@$(RUN) bench --only-when-quiet $(if $(ARGS),--into,--json) docs/benchmarks.json $(ARGS)
	@$(RUN) docs.measurements

fuzz: $(VENV)/.with-test
	@$(RUN) tests.stress.fuzz --seconds $(SECONDS) $(ARGS)

soak: $(VENV)/.with-test
	@$(RUN) tests.stress.soak --seconds $(SOAK_SECONDS) $(ARGS)

waits: $(VENV)/.with-test
	@$(RUN) tests.stress.waits --seconds $(WAITS_SECONDS) $(ARGS)

# Makes an environment for each interpreter: .venv-3.10 and so on.
test-matrix:
	@$(PYTHON) -m tests.matrix $(ARGS)

# Warnings are errors: a link or an anchor that leads nowhere is one.
docs: $(VENV)/.with-docs
	@$(RUN) sphinx --fail-on-warning --keep-going --quiet -b html docs build/docs
	@echo "build/docs/index.html"

dist: $(VENV)/.with-release
	@$(RUN) build

# Those Pythons that are not on the machine are taken from a newer Debian, as root and with debootstrap.
release-check: $(VENV)/.with-release
	@$(RUN) tests.release $(ARGS)

clean:
	rm -rf $(VENV) $(VENV)-eventlet build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
