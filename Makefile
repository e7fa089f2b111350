# Needs Python 3.11 or newer and make; everything else is installed into $(VENV).
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help demo test test-slow bench lint coverage clean

help:
	@echo "make demo       train and compare the methods on the embedded handwritten digits; writes runs/demo"
	@echo "make test       the tests (under ten minutes on two cores)"
	@echo "make test-slow  the slower checks"
	@echo "make bench      every benchmark at a modest size (ten minutes on two quiet cores); writes runs/bench"
	@echo "make lint       style and types"
	@echo "make coverage   the tests with branch coverage"
	@echo "make clean      remove the environment and the demo's folder"

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gpvae_jax needs Python 3.11 or newer, but $(PYTHON) is " + sys.version.split()[0] + "; run make with PYTHON=python3.12, say.")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(INSTALLED)
	@rm -rf runs/demo
	$(BIN)/gpvae compare --config experiments/demo.json --out runs/demo

test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow"

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -n $(WORKERS) -m slow

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

coverage: $(INSTALLED)
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow" --cov --cov-report=term

clean:
	rm -rf $(VENV) runs/demo
