# make demo     set up, then the main job on MovieLens 100K: train, evaluate, measure, report
# make test     set up, then the tests
# make check    lint, format, types
# make docs     the site, in build/site
# make package  sdist and wheel, in dist
# make gpu      prove and measure everything on a GPU; DEVICE=cpu rehearses it. Needs torch only, goes on where it was.
PYTHON ?= python3
VENV ?= .venv
DEVICE ?= cuda
OUTPUT ?= gpu-results
# Whole files to every core, so that what a file prepares for its tests is made once.
PARALLEL ?= --numprocesses auto --dist loadfile
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: setup demo test test-all check format docs package gpu clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "seqbench needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --editable '.[dev]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(PIP) --editable '.[docs]'
	touch $@

demo: setup
	$(BIN)/seqbench run --models lrurec,sasrec,markov,popularity
	$(BIN)/seqbench report

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m 'not slow' $(PARALLEL)

test-all: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(PARALLEL)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror kernels/*.cpp kernels/*.h
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i kernels/*.cpp kernels/*.h

# The variable silences an advertisement, not a warning about the site.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

package: $(VENV)/.installed-dev
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

gpu:
	$(PYTHON) tools/gpu.py --device $(DEVICE) --output $(OUTPUT)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
