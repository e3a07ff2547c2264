# Thin verbs; each does its own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.9.9
STAMP := $(VENV)/.installed

export OMP_NUM_THREADS ?= 1

.PHONY: setup builtin-weights demo test lint types imports unit cluster-deps cluster-parts cluster test-cluster generate lock clean

setup: $(STAMP)

# uv installs the lock file in seconds where it has its cache; plain pip would need minutes.
$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=$(UV_VERSION)'
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

# Of the demo and of both images: `weights: builtin` means the folder of the model's name.
BUILTIN_WEIGHTS := build/weights
TINY_WEIGHTS := $(BUILTIN_WEIGHTS)/open-sora-v1.2-tiny

$(TINY_WEIGHTS): | $(STAMP)
	$(BIN)/videogen weights random --preset tiny --out $@

# Both Dockerfiles copy them.
builtin-weights: $(TINY_WEIGHTS)

demo: setup $(TINY_WEIGHTS)
	@echo "The tiny model has random weights: it shows every stage at work and makes noise, not pictures."
	VIDEOGEN_BUILTIN_WEIGHTS=$(BUILTIN_WEIGHTS) $(BIN)/videogen run examples/quickstart.yaml --out out/quickstart

test: lint types imports unit

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: setup
	$(BIN)/mypy

imports: setup
	$(BIN)/lint-imports

# Pods ask for little and get little beside other tests, so those of a real node come after all others.
unit: setup cluster-parts
	$(BIN)/pytest -n 3 --dist loadscope -m "not real_node" --durations=25
	$(BIN)/pytest -m real_node --durations=25

# The test cluster: tests/cluster/README.md. System packages are installed by nothing but this.
cluster-deps:
	$(PYTHON) -m tests.cluster.packages

# Minutes when cold, and nothing where it cannot work: the tests then say so.
cluster-parts: setup
	$(BIN)/python tests/store/versitygw.py
	$(BIN)/python -m tests.cluster.binaries
	$(BIN)/python -m tests.cluster.images

cluster: setup
	$(BIN)/python -m tests.cluster.real

test-cluster: setup cluster-parts
	$(BIN)/pytest -n 2 --dist loadscope -m "not real_node" tests/cluster tests/chart
	$(BIN)/pytest -m real_node

# Everything that is made from the models of api/videogen_api; a test fails on any difference.
generate: setup
	mkdir -p crds
	$(BIN)/videogen crd > crds/videogenerations.videogen.dev.yaml
	$(BIN)/videogen crd --output helm > charts/videogen/templates/crd.yaml
	$(BIN)/videogen crd --output markdown > docs/api.md
	$(BIN)/python charts/values_schema.py

COMPILE = $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 pyproject.toml

# The images hold what development was tested with, and no more than they need.
lock: setup
	$(COMPILE) --extra dev --constraint requirements.constraints --output-file requirements.lock
	$(COMPILE) --extra operator --extra store --constraint requirements.lock --output-file operator/requirements.lock
	$(COMPILE) --extra runner --extra store --constraint requirements.lock --output-file runner/requirements.lock

clean:
	rm -rf $(VENV) build out
