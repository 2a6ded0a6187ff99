PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.setup-done
# A file's tests stay together, since they share what is expensive.
# In the order of the folders: by the number of their tests, the few long ones that start Ray would come last of all.
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: setup train test test-all cluster-test lint clean

# Creates the virtual environment with the exact versions of constraints.txt; repeated only when those change.
setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[compress,dev,gs,s3,tensorboard,timm]"
	touch $@

# The main job: real handwritten digits, embedded in scikit-learn; nothing is downloaded for it.
train: setup
	$(BIN)/distaug run jobs/digits.yaml

test: setup
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not deploy and not cifar and not gpu"

test-all: setup
	$(BIN)/python -m pytest $(PARALLEL) -m "not gpu"

# Builds the image and has a cluster of containers lose a worker; wants podman and buildah, see deploy/README.md.
cluster-test:
	deploy/cluster_test.sh || test $$? = 77 # skipped, with the reason

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy

# Leaves the virtual environment and the runs alone.
clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
