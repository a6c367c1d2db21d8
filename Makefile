# Each target needs only python3 (with venv) and make: it creates .venv and installs what it uses.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint bench notebooks fuzz clean

demo: .venv/.examples
	$(BIN)/python -m eprop_jax

test: .venv/.test
	$(BIN)/python -m pytest -n 2

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: .venv/.bench
	$(BIN)/python -m benchmarks

# In an environment of its own: braintrace brings brainstate, brainpy and more.
.PHONY: bench-peers
bench-peers: .venv-peers/.installed
	.venv-peers/bin/python -m benchmarks.peers

.venv-peers/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --editable . braintrace==0.2.6
	touch $@

notebooks: .venv/.notebooks
	$(BIN)/python notebooks/run.py

fuzz: .venv/.test
	HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest -n 2

# One stamp an extra; a change of pyproject.toml installs again.
.venv/.%: pyproject.toml | .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	touch $@

.venv:
	$(PYTHON) -m venv .venv

clean:
	rm -rf .venv .venv-peers out dist
