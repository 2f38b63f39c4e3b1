# `make train` and `make test` do everything: they build .venv, install the pinned packages, and run.
# Stamp files inside .venv remember what is installed, so that a second call starts at once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL = $(BIN)/python -m pip --disable-pip-version-check install --quiet $(COMPILE)
CONFIG ?= configs/quickstart.yaml

# Tests start hundreds of processes: each would compile every module anew. For pip to compile all modules, also those
# that nobody uses, would double the time that it takes.
unexport PYTHONDONTWRITEBYTECODE
test check unit slow: COMPILE := --no-compile

.DELETE_ON_ERROR:
.PHONY: help train test check unit slow install lock docs clean

help:
	@echo "make train    install, then train configs/quickstart.yaml (CONFIG=... for another recipe)"
	@echo "make test     install (also vLLM and DeepSpeed for CPUs), then lint, types, layers and all tests"
	@echo "make unit     only the quick tests"
	@echo "make install  only .venv with the rlpost command"
	@echo "make docs     write the generated pages, and build the documentation's site"
	@echo "make lock     pin the newest versions that requirements/*.in allow"

train: $(VENV)/core.stamp
	$(BIN)/rlpost train $(CONFIG)

test: check unit slow

check: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(VENV)/dev.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadfile -m "not slow and not cluster and not gpu"

# Three at a time also on two cores: these tests wait more than they compute. Files go out in their order, in which
# the longest ones come early; by default xdist would keep those with few tests, however long, for the end.
slow: $(VENV)/cluster.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder -m "slow or cluster or gpu"

install: $(VENV)/core.stamp

$(VENV)/python.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: rlpost needs Python 3.11 or newer; name one: make PYTHON=python3.11 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/core.stamp: $(VENV)/python.stamp requirements/core.lock pyproject.toml
	$(PIP_INSTALL) -r requirements/core.lock
	$(PIP_INSTALL) --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/dev.stamp: $(VENV)/core.stamp requirements/dev.lock
	$(PIP_INSTALL) -r requirements/dev.lock
	touch $@

# vLLM for CPUs comes without its requirements, which the lock lists: pip would add CUDA builds that break torch.
$(VENV)/cluster.stamp: $(VENV)/dev.stamp requirements/cluster.lock
	@if $(BIN)/python -c 'import sys, torch; sys.exit(sys.platform != "linux" or torch.version.cuda is not None)'; then \
	  DS_ACCELERATOR=cpu $(PIP_INSTALL) --no-deps --no-build-isolation --use-pep517 -r requirements/cluster.lock; \
	else \
	  echo "note: vLLM and DeepSpeed are left out, and their tests skipped: requirements/cluster.lock is for Linux" \
	    "with PyTorch's CPU build (docs/install.md)"; \
	fi
	touch $@

lock:
	PYTHON=$(PYTHON) requirements/lock.sh

# Pages that are written from the code, and then the site: `strict` in mkdocs.yml makes a broken link an error.
docs: $(VENV)/dev.stamp
	$(BIN)/python -m rlpost.config.reference > docs/configuration.md
	$(BIN)/python -m rlpost.monitor.metrics > docs/metrics.md
	$(BIN)/python -m rlpost.config.algorithm_pages docs/algorithms
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --site-dir site
	@echo "the site is in site/index.html"

clean:
	rm -rf $(VENV) *.egg-info build dist site
