PYTHON ?= python3
BIN := .venv/bin

# Every file has a hash that is known here, and nothing is built on the way.
INSTALL := $(BIN)/python -m pip install --quiet --require-hashes --only-binary :all: --requirement
LOCK := $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --upgrade \
  --generate-hashes --only-binary :all: --no-emit-index-url --custom-compile-command 'make lock'

.PHONY: quick test lint docs lock clean

quick: .venv/installed  ## install and play a first part of the embedded protocol
	$(BIN)/poisongames run digits-v3 --seeds 1 --attack badnets:m=50 --attack lsp --out runs/quick \
	  --defense fine-pruning --defense strip --defense neural-cleanse
	$(BIN)/poisongames board build runs/quick

test: .venv/installed-test  ## install the test extras and run the tests
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder \
	  --ignore=tests/performance
	$(BIN)/python -m pytest tests/performance

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed-test  ## the documentation as a site
	$(BIN)/python -m sphinx -q -W --keep-going docs build/docs
	@echo "see build/docs/index.html"

lock: .venv/installed-test  ## take the newest versions that pyproject.toml allows
	$(LOCK) --group build --output-file requirements/quick.txt
	$(LOCK) --group build --extra test --constraints requirements/quick.txt \
	  --output-file requirements/test.txt

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml requirements/quick.txt | .venv/bin/python
	$(INSTALL) requirements/quick.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

.venv/installed-test: requirements/test.txt .venv/installed
	$(INSTALL) requirements/test.txt
	touch $@

clean:
	rm -rf .venv runs
