# The README's two commands, `make demo` and `make test`, do all their own set-up. `make help` lists
# the targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# One process a core; the lab's tests come last, one by one (tests/conftest.py).
PARALLEL := --numprocesses auto --dist loadgroup --no-loadscope-reorder
COVERAGE := $(if $(COVER),--cov --cov-report=)

.PHONY: all help check format lint types imports fmt test test-fast test-all cover demo wheel lock docs \
	bench-gossip bench-pull fuzz clean

all: check test

help: ## list the targets
	@echo "make              check, and test"
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' Makefile | while IFS="	" read -r target text; do \
		printf 'make %-12s %s\n' "$$target" "$$text"; done

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { rm -rf $(VENV); echo "Python's venv module is missing; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@$(PIP_INSTALL) --editable '.[dev]'
	@touch $@

demo: $(VENV)/.installed ## see three agents on this machine find each other (needs neither root nor Docker)
	@$(BIN)/beiran demo

test: $(VENV)/.installed ## every test that this machine can run (10 minutes on 2 cores); PYTEST_ARGS='tests/cli -k help' for some
	@echo "Every test that this machine can run: about 10 minutes on 2 cores as root with the lab's packages, 4 without; make test-fast takes 3."
	$(BIN)/python -m pytest $(COVERAGE) $(or $(PYTEST_ARGS),$(PARALLEL))

test-fast: $(VENV)/.installed ## the tests that need neither the lab nor simulations (3 minutes on 2 cores)
	$(BIN)/python -m pytest $(COVERAGE) $(PARALLEL) -m 'not lab and not slow' $(PYTEST_ARGS)

test-all: $(VENV)/.installed ## as root: install the lab's Debian packages, then run every test; a skipped one fails
	@.ci/install-packages $$($(PYTHON) tests/requirements.py)
	@BEIRAN_LAB_REQUIRED=1 $(MAKE) --no-print-directory $(if $(COVER),cover,test)

cover: $(VENV)/.installed ## as test, and report which lines and branches no test reached
	@$(MAKE) --no-print-directory test COVER=1
	@$(BIN)/coverage report --skip-covered
	@echo "Coverage: $$($(BIN)/coverage report --format=total) % overall," \
		"$$($(BIN)/coverage report --format=total --include='beiran/gossip/*') % of beiran/gossip," \
		"$$($(BIN)/coverage report --format=total --include='beiran/swarm/*') % of beiran/swarm"

check: format lint types imports ## format, lint, types, and that imports go down only

format: $(VENV)/.installed ## check the format
	$(BIN)/ruff format --check .

lint: $(VENV)/.installed ## ruff
	$(BIN)/ruff check .

types: $(VENV)/.installed ## mypy --strict
	$(BIN)/mypy

imports: $(VENV)/.installed ## the import contracts of pyproject.toml
	$(BIN)/lint-imports

fmt: $(VENV)/.installed ## format the code, and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: $(VENV)/.installed ## build the source archive and from it the wheel, into dist/
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .

lock: $(VENV)/.installed ## write constraints.txt anew: the newest versions that pyproject.toml allows
	$(BIN)/python .ci/lock

bench-gossip: $(VENV)/.installed ## measure beside serf and kinship (root; about two hours; BENCH_ARGS=--quick)
	@$(PIP_INSTALL) --editable '.[dev,bench]'
	$(BIN)/python -m benchmarks.gossip $(BENCH_ARGS)

bench-pull: $(VENV)/.installed ## measure pulls on shaped links (root; BENCH_ARGS=--quick)
	$(BIN)/python -m benchmarks.pull $(BENCH_ARGS)

RUNS ?= 1000000
fuzz: $(VENV)/.installed ## any bytes on the UDP and the TCP port, guided by coverage (RUNS inputs each)
	@$(PIP_INSTALL) --editable '.[dev,fuzz]'
	$(BIN)/python -m tests.fuzz.fuzz_codec -runs=$(RUNS)
	$(BIN)/python -m tests.fuzz.fuzz_node -runs=$(RUNS)
	$(BIN)/python -m tests.fuzz.fuzz_http -runs=$(RUNS)

docs: $(VENV)/.installed ## the documentation as a site in build/site
	@$(PIP_INSTALL) --editable '.[dev,docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean: ## remove what these made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage build dist *.egg-info
