# Each target needs only python3 (with venv) and make: it creates .venv and installs what it uses.
PYTHON ?= python3
BIN := .venv/bin
# For test-matrix and package: which tests; all of them if not said.
TESTS ?=

.PHONY: demo test test-matrix lint bench notebooks fuzz clean

demo: .venv/.examples
	$(BIN)/python -m eprop_jax

test: .venv/.test
	$(BIN)/python -m pytest -n 2 -m "not slow"

# What takes long: real processes that are killed, 100,000 steps, whole runs.
.PHONY: test-slow
test-slow: .venv/.test
	$(BIN)/python -m pytest -n 2 -m slow

# Would the tests notice? One-line mutations, each in a copy of the tree.
.PHONY: mutants
mutants: .venv/.test
	$(BIN)/python -m tests.mutants

# The oldest versions that pyproject.toml allows, each of them, and the newest that there are.
test-matrix: .venv-oldest/.installed .venv-newest/.installed
	.venv-oldest/bin/python -m pytest -n 2 $(TESTS)
	.venv-newest/bin/python -m pytest -n 2 $(TESTS)

.venv-oldest/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-oldest
	grep -o '"[a-z][a-z0-9_-]*>=[0-9.]*"' pyproject.toml | tr -d '"' | sed 's/>=\(.*\)/==\1/' > .venv-oldest/bounds.txt
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check \
	  --constraint .venv-oldest/bounds.txt --editable ".[test]"
	touch $@

.venv-newest/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --disable-pip-version-check \
	  --upgrade --upgrade-strategy eager --editable ".[test]"
	touch $@

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: .venv/.bench
	$(BIN)/python -m benchmarks

# In an environment of its own: braintrace brings brainstate, brainpy and more.
# braintrace wants a newer Python than the library does.
PEERS_PYTHON ?= $(shell for p in python3.14 python3.13 python3.12; do $$p -c "" 2>/dev/null && echo $$p && break; done)
.PHONY: bench-peers
bench-peers: .venv-peers/.installed
	.venv-peers/bin/python -m benchmarks.peers

.venv-peers/.installed: pyproject.toml
	$(or $(PEERS_PYTHON),$(PYTHON)) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --editable . braintrace==0.2.8
	touch $@

# On a card: in an environment of its own, with the jaxlib that drives it.
GPU_JAX ?= jax[cuda12]
.PHONY: bench-gpu
bench-gpu: .venv-gpu/.installed
	.venv-gpu/bin/python -m benchmarks.gpu

.venv-gpu/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[bench]" "$(GPU_JAX)"
	touch $@

notebooks: .venv/.notebooks
	$(BIN)/python notebooks/run.py

# The site, in out/site: what is linked is there, what is public is told. The notebooks are not run.
.PHONY: docs linkcheck
docs: .venv/.docs
	rm -rf out/site
	$(BIN)/python -m sphinx -q -W --keep-going -b html -c docs . out/site
	$(BIN)/python docs/tools/check.py out/site

# Links to elsewhere, which need a network.
linkcheck: .venv/.docs
	$(BIN)/python -m sphinx -q -b linkcheck -c docs . out/linkcheck

# 2,600 drawn examples from test_fuzz.py and test_state_machine.py, and 400 of any size from test_exact.py;
# others at every run, which SEED=n repeats.
SEED ?= $(shell date +%s)
fuzz: .venv/.test
	HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest -n 2 --dist worksteal --hypothesis-show-statistics \
	  --hypothesis-seed=$(SEED) tests/test_fuzz.py tests/test_state_machine.py tests/test_exact.py

# The wheel in an empty environment, and the sdist's tests against it.
.PHONY: package
package: .venv/.test
	rm -rf dist .venv-package
	$(BIN)/python -m hatchling build
	$(PYTHON) -m venv .venv-package
	.venv-package/bin/python -m pip install --quiet --disable-pip-version-check "$$(ls dist/*.whl)[test]"
	tar -xzf dist/*.tar.gz -C dist
	rm -r dist/eprop_jax-*/eprop_jax
	cd dist/eprop_jax-* && ../../.venv-package/bin/python -m pytest -n 2 $(TESTS)

# One stamp an extra; a change of pyproject.toml installs again.
.venv/.%: pyproject.toml | .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	touch $@

.venv:
	$(PYTHON) -m venv .venv

clean:
	rm -rf .venv .venv-oldest .venv-newest .venv-package .venv-peers .venv-gpu out dist
