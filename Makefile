# make quickstart   the whole farm, offline, in minutes; prints the report's path
# make test         all quick tests: no network, no key, no GPU
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= runs/quickstart
RUNS ?=
LAB ?=

.PHONY: help setup dev quickstart test slow browser screenshots check format lock wheel clean

help:
	@sed -n 's/^# make/make/p' Makefile
	@echo "make check        ruff, mypy, layers, file lengths"
	@echo "make slow         the tests that take minutes"
	@echo "make screenshots  a picture of every page, in build/screenshots (needs Chromium)"
	@echo "make browser      the labelling page in headless Chromium (skipped where there is none)"

# A CPU build of torch is enough; on Linux, pip's default index serves the CUDA build (see README, 'Install').
$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("farm needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.lock
	@touch $@

setup: $(VENV)/.installed
dev: $(VENV)/.dev

quickstart: setup
	$(BIN)/farm run quickstart --out $(OUT)

test: dev
	$(BIN)/python -m pytest -m "not slow and not browser"

slow: dev
	$(BIN)/python -m pytest -m slow

browser: dev
	$(BIN)/python -m pytest -m browser tests/browser

# RUNS="a b" and LAB=c picture these run folders; without them two small runs are made first.
screenshots: dev
	$(BIN)/python docs/screenshots.py $(RUNS) $(if $(LAB),--laboratory $(LAB)) --out build/screenshots

check: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/unit/test_architecture.py

format: dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: dev
	$(BIN)/python -m build --wheel

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache
