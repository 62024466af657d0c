# Needs Python 3.11 or later, make and a package index. Everything else goes into .venv.

# The first that runs and is new enough; a name on the PATH may be a shim that does not run.
PYTHON ?= $(shell for python in python3.14 python3.13 python3.12 python3.11 python3; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& { echo "$$python"; break; }; done)

VENV := .venv
RUN := $(VENV)/bin/python
STYLED := asgi_session tests examples benchmarks

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test check bench clean

help:
	@echo "make demo    a page served by two processes that share their sessions; needs a browser. STORE=postgresql"
	@echo "             has them in PostgreSQL, and so on: redis, sqlite, mariadb, memcached, dynamodb, s3"
	@echo "make test    all tests, with real servers, and coverage; options for pytest in ARGS, as in ARGS='-k cookie -x'"
	@echo "make check   formatting, lint, types, the rules of import and export"
	@echo "make bench   session layers measured side by side; options in ARGS, as in ARGS='--quick --only latency'"
	@echo "make clean   remove $(VENV) and the caches"

# What one store's server and client need is installed when it is asked for.
STORE ?= redis
DEMO_GROUPS := $(shell sed -n 's/^\(demo-[a-z0-9]*\) = .*/\1/p' pyproject.toml)

demo: $(VENV)/.has-demo $(patsubst %,$(VENV)/.has-%,$(filter demo-$(STORE),$(DEMO_GROUPS)))
	@$(RUN) examples/demo '$(STORE)'

# A run of all tests measures coverage as well, with the floor in pyproject.toml; one of some tests does not.
# Two processes share the tests: much of the time is waiting, for servers and deadlines. Each gets one half, in
# order, and takes over some of the other's once it is done, so that both end at about one time.
ALL := --cov -n 2 --dist worksteal

test: $(VENV)/.has-test $(VENV)/.has-recipes $(VENV)/.has-bench $(VENV)/.has-ministack
	$(RUN) -m pytest $(if $(strip $(ARGS)),$(ARGS),$(ALL))

check: $(VENV)/.has-test $(VENV)/.has-check
	$(RUN) -m ruff format --check $(wildcard $(STYLED))
	$(RUN) -m ruff check $(wildcard $(STYLED))
	$(RUN) -m mypy --strict asgi_session tests/typing
	$(RUN) -m pyright asgi_session tests/typing
	$(RUN) -m pytest -q tests/unit/test_exports.py

bench: $(VENV)/.has-test $(VENV)/.has-bench
	$(RUN) -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV) .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/.made:
	@test -n "$(PYTHON)" || { \
		echo "No Python 3.11 or later found. Install one, or name it: make PYTHON=/path/to/python3.12"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is not Python 3.11 or later. Name another: make PYTHON=/path/to/python3.12"; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@touch $@

# One mark per dependency group, so that a second run installs nothing.
$(VENV)/.has-%: pyproject.toml | $(VENV)/.made
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable . --group $*
	@touch $@

# It wants another botocore than aiobotocore does, so it lives apart; the tests start its command.
$(VENV)/.has-ministack: pyproject.toml | $(VENV)/.made
	$(RUN) -m venv $(VENV)/ministack
	$(RUN) -m pip --python $(VENV)/ministack install --quiet --disable-pip-version-check --group ministack
	@touch $@
