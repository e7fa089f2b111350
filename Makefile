# Needs Python 3.11 or newer and make; everything else is installed into $(VENV).
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin
# the tests of a file run in one worker, so that what they share is made and compiled once
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile
INSTALLED := $(VENV)/.installed
DOCS_INSTALLED := $(VENV)/.docs-installed

.PHONY: help demo test test-slow bench lint coverage docs notebooks clean

help:
	@echo "make demo       train and compare the methods on the embedded handwritten digits; writes runs/demo"
	@echo "make test       the tests (under ten minutes on two cores)"
	@echo "make test-slow  the slower checks, the notebooks and the site among them"
	@echo "make bench      every benchmark at a modest size (twenty minutes on a quiet machine); writes runs/bench"
	@echo "make lint       style and types"
	@echo "make coverage   the tests with branch coverage"
	@echo "make docs       the documentation as a site: build/docs/index.html"
	@echo "make notebooks  run experiments/notebooks again, in place"
	@echo "make clean      remove the environment and the demo's folder"

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gpvae_jax needs Python 3.11 or newer, but $(PYTHON) is " + sys.version.split()[0] + "; run make with PYTHON=python3.12, say.")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(DOCS_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,docs]'
	@touch $@

demo: $(INSTALLED)
	@rm -rf runs/demo
	$(BIN)/gpvae compare --config experiments/demo.json --out runs/demo

test: $(INSTALLED)
	$(PYTEST) -m "not slow"

test-slow: $(DOCS_INSTALLED)
	$(BIN)/python -m pytest -n $(WORKERS) -m slow

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

coverage: $(INSTALLED)
	$(PYTEST) -m "not slow" --cov --cov-report=term

docs: $(DOCS_INSTALLED)
	@rm -rf build/docs
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -c docs . build/docs
	@echo "build/docs/index.html"

notebooks: $(DOCS_INSTALLED)
	$(BIN)/python -m experiments.run_notebooks

clean:
	rm -rf $(VENV) runs/demo build/docs docs/api
