# What a person or a machine does with this checkout. Every command runs out of .venv.

PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
# Two cores share the tests, so each process takes one thread. `make test TESTS=tests/test_house.py` runs a part.
TESTS ?= tests --cov
WORKERS ?= 2

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install demo test gate lint types arrows clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Create .venv with Python 3.11 and install what was tested; nothing to do when up to date

demo: install ## Run a small federation on embedded data, with a report in demo/ (under 3 minutes)
	$(BIN)/mediclip simulate demo --out demo

test: install ## Run the tests with coverage
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) $(TESTS)

gate: lint types arrows ## Run all checks of the source

lint: install ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: install ## mypy, strict
	@$(BIN)/mypy

arrows: install ## import-linter: who may import whom
	@PYTHONPATH=. $(BIN)/lint-imports --no-logo

clean: ## Remove what the other targets wrote, except .venv
	@rm -rf demo dist build htmlcov .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache
	@rm -rf .hypothesis .import_linter_cache
	@find mediclip client server simulation tests -name __pycache__ -type d -prune -exec rm -rf {} +

# pip's full output goes to .venv/install.log; a person sees the large files go by.
define pip_install
	$(PIP) install --constraint constraints.txt $(1) 2>&1 | tee -a .venv/install.log | awk ' \
	  /^ *(Collecting|Processing) / && ++n % 20 == 0 { print "  " n " packages looked up"; fflush() } \
	  /^ *Downloading .*\([0-9]{2,}.*MB\)/ { print "  " $$2, $$3, $$4; fflush() } \
	  /^Installing collected/ { print "  unpacking"; fflush() } \
	  /^ERROR/ { print; fflush() }' \
	|| { echo "Installing did not work; .venv/install.log says why." >&2; exit 1; }
endef

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) > /dev/null || [ -x $(BIN)/python ] || \
	  { echo "Python 3.11 must be on the PATH. It is not; install it, or name yours: make install PYTHON=..." >&2; exit 1; }
	@echo "Installing into .venv: about 6 GB with torch, a few minutes the first time"
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv .venv
	@: > .venv/install.log
	@echo "1/3 pip"
	@$(call pip_install,pip)
	@echo "2/3 tools"
	@$(call pip_install,--group dev)
	@echo "3/3 this project and its libraries"
	@$(call pip_install,--no-build-isolation --editable .)
	@touch $@
	@echo "Installed."
