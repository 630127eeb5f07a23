# Every habit of the project. Each target is complete on a fresh machine: .venv is made when it is missing.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test test-reliability test-nightly mutation lint types bench bench-learning docs notebooks verification clean

install: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[test,bench]"
	touch .venv/installed

demo: install
	$(BIN)/lightning-distill demo $(ARGS)

# Two processes, a file of tests in one of them: nearly twice as fast on two threads.
test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

test-reliability: install
	$(BIN)/python -m pytest -n 2 --dist worksteal tests/reliability $(ARGS)

# The same tests with the long counts (tests/reliability/counts.py): about an hour.
test-nightly: install
	LIGHTNING_DISTILL_NIGHTLY=1 $(BIN)/python -m pytest -n 2 --dist worksteal --timeout 3000 tests/reliability $(ARGS)

mutation: install
	$(BIN)/python -m pip install --quiet --editable ".[mutation]"
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/mutation.py --out benchmarks/results/mutation.json

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: install
	$(BIN)/mypy

# One thread each; figures are ratios of CPU times. What takes longer stands apart.
BENCHMARKS := step cache memory images texts sounds manifest startup losses clipping fusion_cost
LEARNING := human_speech mfh pairs find_clip clip_study fusion fusion_synthetic cross_domain

bench: install
	for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py --out benchmarks/results/$$name.json || exit 1; done
	$(BIN)/python benchmarks/table.py
	$(BIN)/python benchmarks/planning.py

bench-learning: install
	for name in $(LEARNING); do $(BIN)/python benchmarks/$$name.py --out benchmarks/results/$$name.json || exit 1; done

# The site, in build/docs, with a reference made from the code; then the examples in docstrings.
docs: install
	$(BIN)/python -m sphinx -q -b html -W --keep-going docs build/docs
	$(BIN)/python -m pytest --doctest-modules lightning_distill

# What every loss, head and rule differs from its reference by: docs/verification.md.
VERIFIED := $(addprefix tests/,balancing clipping feature_clipping fusion gradient_balancing losses validators)
verification: install
	rm -rf build/verification
	LIGHTNING_DISTILL_VERIFICATION=$(CURDIR)/build/verification $(BIN)/python -m pytest -n 2 --dist loadfile $(VERIFIED)
	$(BIN)/python docs/make_verification.py --notes build/verification

# Made from notebooks/*.py and run, so that outputs and pictures are those of this code.
notebooks: install
	$(BIN)/python -m pip install --quiet --editable ".[notebooks]"
	for file in notebooks/*.py; do \
		$(BIN)/jupytext --to ipynb --set-kernel python3 --output $${file%.py}.ipynb $$file || exit 1; \
		OMP_NUM_THREADS=1 $(BIN)/jupyter-execute --inplace $${file%.py}.ipynb || exit 1; \
	done

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
