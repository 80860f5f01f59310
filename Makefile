# Two commands from a fresh clone: `make demo` runs the main job, `make test` checks everything. All goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
# two test workers with one thread each: on two cores torch's own threads would fight them
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

.PHONY: demo test coverage coverage-all tree clean

demo: .venv/installed
	$(BIN)/treesearch run --out runs/demo

test: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy treesearch actors
	$(PYTEST)

# every branch of what must not lose anything
SAFE := treesearch/tree.py,treesearch/manager.py,treesearch/store.py,treesearch/salvage.py,treesearch/pool.py,treesearch/blame.py
coverage: .venv/installed-dev
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -q -n 0 tests/test_tree.py tests/test_laws.py \
	    tests/test_store.py tests/test_damage.py tests/test_pool.py tests/test_blame.py tests/test_engine.py tests/test_forms.py \
	    tests/actors/test_ledger.py tests/algorithms
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --include=$(SAFE) --show-missing --fail-under=100

# and of all there is; in one process, for workers of pytest-xdist end before they have written what they measured
coverage-all: .venv/installed-dev
	$(BIN)/python -m coverage erase
	OMP_NUM_THREADS=1 $(BIN)/python -m coverage run -m pytest -q -n 0
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --show-missing --skip-covered --fail-under=90

# rewrite the file tree of the README from the files that are there
tree:
	$(PYTHON) tests/readme_tree.py

clean:
	rm -rf .venv runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ .venv/installed
