# make demo: set up and train on data inside the packages.   make test: set up and run every test.
# Each target sets up what it needs under .venv by itself; the workflows in .github call the same targets.
ifeq ($(OS),Windows_NT)
PYTHON ?= python
BIN := Scripts
else
PYTHON ?= python3
BIN := bin
endif
LOWEST_PYTHON ?= python3.10
VENV := .venv/$(BIN)
LOWEST := .venv/lowest/$(BIN)
BUILD := .venv/build/$(BIN)
# what takes long and is no test: see benchmarks/
BENCHMARKS := imports data step training freed_memory inference growth processes memory callbacks kills
# the tests on two processes; those that share what takes long to make stay together: see tests/conftest.py
WORKERS := --numprocesses 2 --dist loadgroup
# the versions in constraints.txt are of Linux and Python 3.11; elsewhere the newest that fit are taken
PINNED := import sys; print("-c constraints.txt" if (sys.platform, *sys.version_info[:2]) == ("linux", 3, 11) else "")
# what must work where there is no checkout
TRY := import primenet_lightning.callbacks, primenet_lightning.datamodules; from primenet_lightning import *

.PHONY: demo test lint docs audit wheel lowest bench venv clean
demo: venv
	$(VENV)/primenet fit

test: venv
	$(VENV)/python -m pytest $(WORKERS)

lint: venv $(VENV)/.lint $(VENV)/.docs
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/mypy
	$(VENV)/pyright --pythonpath $(VENV)/python

# the tests of the site's own tools need what the site needs
docs: venv $(VENV)/.docs
	$(VENV)/python -m pytest --quiet tests/test_documentation.py -k "equations or overrides"
	NO_MKDOCS_2_WARNING=1 $(VENV)/mkdocs build --strict

# licences of all that is installed, and known vulnerabilities of all that constraints.txt names
audit: venv $(VENV)/.audit
	$(VENV)/pip-licenses
	@$(VENV)/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip --progress-spinner off || \
	{ echo "make audit has failed: a package has known vulnerabilities, or could not be looked up (see above)"; exit 1; }

# the sdist, and the wheel built from it; installed and used as by a user, with the newest versions of all it needs
wheel:
	$(PYTHON) -m venv .venv/build
	$(BUILD)/python -m pip install --quiet 'build>=1.2'
	rm -rf dist
	$(BUILD)/python -m build
	elsewhere=$$(mktemp -d) && trap 'rm -rf "$$elsewhere"' EXIT && $(PYTHON) -m venv "$$elsewhere/venv" && \
	"$$elsewhere/venv/$(BIN)/python" -m pip install --quiet dist/*.whl && \
	cd "$$elsewhere" && "venv/$(BIN)/python" -I -c '$(TRY)' && "venv/$(BIN)/primenet" --help

# the tests with exactly the lower bounds of pyproject.toml
lowest:
	test -x $(LOWEST)/python || $(LOWEST_PYTHON) -m venv .venv/lowest
	$(LOWEST)/python -m pip install --quiet 'uv>=0.5'
	$(LOWEST)/uv pip install --quiet --python $(LOWEST)/python --compile-bytecode --resolution lowest-direct --editable '.[test]'
	$(LOWEST)/python -m pytest $(WORKERS)

bench: venv
	failed=; for name in $(BENCHMARKS); do $(VENV)/python benchmarks/$$name.py || failed="$$failed $$name"; done; \
	test -z "$$failed" || { echo "past a bound:$$failed"; exit 1; }

venv: $(VENV)/.test

# .venv with one of the lists of pyproject.toml
$(VENV)/.%: pyproject.toml constraints.txt
	test -x $(VENV)/python || $(PYTHON) -m venv .venv
	$(VENV)/python -m pip install --quiet $$($(VENV)/python -c '$(PINNED)') --editable '.[$*]'
	touch $@

clean:
	rm -rf .venv build dist site .mypy_cache .ruff_cache .pytest_cache
