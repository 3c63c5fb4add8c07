PYTHON ?= python3
BIN := .venv/bin

.PHONY: quick test lint clean

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

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

clean:
	rm -rf .venv runs
