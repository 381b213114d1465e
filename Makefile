# The README's two commands, `make demo` and `make test`, do all their own set-up.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: all check format lint types imports test cover demo bench-gossip bench-pull fuzz clean

all: check test

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { rm -rf $(VENV); echo "Python's venv module is missing; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(VENV)/.installed
	@$(BIN)/beiran demo

test: $(VENV)/.installed
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: format lint types imports

format: $(VENV)/.installed
	$(BIN)/ruff format --check .

lint: $(VENV)/.installed
	$(BIN)/ruff check .

types: $(VENV)/.installed
	$(BIN)/mypy

imports: $(VENV)/.installed
	$(BIN)/lint-imports

cover: $(VENV)/.installed
	$(BIN)/python -m pytest --cov --cov-report=term-missing:skip-covered $(PYTEST_ARGS)

bench-gossip: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,bench]'
	$(BIN)/python -m benchmarks.gossip $(BENCH_ARGS)

bench-pull: $(VENV)/.installed
	$(BIN)/python -m benchmarks.pull $(BENCH_ARGS)

# Any bytes on the UDP and the TCP port, guided by coverage; RUNS inputs for each target.
RUNS ?= 1000000
fuzz: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,fuzz]'
	$(BIN)/python -m tests.fuzz.fuzz_codec -runs=$(RUNS)
	$(BIN)/python -m tests.fuzz.fuzz_node -runs=$(RUNS)
	$(BIN)/python -m tests.fuzz.fuzz_http -runs=$(RUNS)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
