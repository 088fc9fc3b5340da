# make demo: set up and train on data inside the packages.   make test: set up and run every test.
PYTHON ?= python3
BIN := .venv/bin
# what takes long and is no test: see benchmarks/
BENCHMARKS := data step training inference growth processes memory callbacks kills

.PHONY: demo test lint bench venv clean
demo: venv
	$(BIN)/primenet fit

test: venv
	$(BIN)/python -m pytest

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: venv
	failed=; for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py || failed="$$failed $$name"; done; \
	test -z "$$failed" || { echo "past a bound:$$failed"; exit 1; }

venv: $(BIN)/.installed

$(BIN)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache
