# Every habit of the project. Each target is complete on a fresh machine: .venv is made when it is missing.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test lint types bench docs clean

install: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[test,bench]"
	touch .venv/installed

demo: install
	$(BIN)/lightning-distill demo $(ARGS)

test: install
	$(BIN)/python -m pytest $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: install
	$(BIN)/mypy

bench: install
	$(BIN)/python benchmarks/human_speech.py --out benchmarks/results
	$(BIN)/python benchmarks/value_clip.py --out benchmarks/results
	$(BIN)/python benchmarks/manifest.py --out benchmarks/results
	$(BIN)/python benchmarks/data_loading.py --out benchmarks/results
	$(BIN)/python benchmarks/startup.py --out benchmarks/results/startup.json
	$(BIN)/python benchmarks/losses.py --out benchmarks/results
	$(BIN)/python benchmarks/mfh.py --out benchmarks/results/mfh.json
	$(BIN)/python benchmarks/pairs.py --out benchmarks/results

docs: install
	$(BIN)/python -m pytest --doctest-modules lightning_distill

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
