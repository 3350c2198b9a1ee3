# radtransfer: `make help` lists what can be made.
# Needs Python 3.11, git and make; everything else is installed into $(VENV) at the versions of requirements.lock.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
ifeq ($(PYTHON),)
$(error no python3.11 and no python3 found: install Python 3.11, or make PYTHON=/path/to/python3.11)
endif
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=
IMAGE ?= radtransfer/radtransfer-python:dev
FLAVOUR ?= gpu
UPGRADE ?=

# Two stamps, named after what they depend on: the dependencies (minutes) and the package itself (seconds).
digest = $(shell $(PYTHON) -c 'import hashlib, sys; files = [open(name, "rb").read() for name in sys.argv[2:]]; \
	print(hashlib.sha256(b"".join([sys.argv[1].encode(), *files])).hexdigest()[:12])' "$(1)" $(2))
DEPENDENCIES := $(VENV)/.dependencies-$(call digest,,requirements.lock)
PACKAGE := $(VENV)/.package-$(call digest,$(CURDIR),pyproject.toml)

.PHONY: help venv demo repro test test-slow test-all lint format types compile compile-check lock manifests dockerfile image \
	image-test bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Variables: VENV=$(VENV) PYTHON=$(PYTHON) IMAGE=$(IMAGE) FLAVOUR=$(FLAVOUR) (gpu, cpu)"

venv: $(DEPENDENCIES) $(PACKAGE) ## make the environment (does nothing when nothing changed)
	@true

$(DEPENDENCIES):
	@echo "Installing the locked dependencies into $(VENV) (once; several minutes and GB)"
	"$(PYTHON)" -c 'import sys; sys.version_info >= (3, 11) or sys.exit(f"radtransfer needs Python 3.11; {sys.executable} is {sys.version.split()[0]}: make PYTHON=/path/to/python3.11 ...")'
	"$(PYTHON)" -m venv "$(VENV)"
	"$(BIN)/pip" install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	rm -f "$(VENV)"/.dependencies-* "$(VENV)"/.package-*
	touch "$@"

$(PACKAGE): $(DEPENDENCIES)
	"$(BIN)/pip" install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	"$(BIN)/pip" check --disable-pip-version-check
	rm -f "$(VENV)"/.package-*
	touch "$@"

demo: venv data/phantoms ## the main job on synthetic radiographs; an unfinished runs/demo is taken up, a finished one kept
	@out=runs/demo; number=1; \
	while [ -e "$$out/run.json" ]; do number=$$((number + 1)); out=runs/demo-$$number; done; \
	"$(BIN)/radtransfer" run --config configs/demo.yaml --data-root data --out "$$out"

repro: venv ## bring the DVC stages up to date: data sets, then one run (params.yaml says which)
	PATH="$(abspath $(BIN)):$$PATH" dvc repro

data/phantoms: | venv
	rm -rf $@.partial
	"$(BIN)/radtransfer" datasets phantoms --out $@.partial
	mv $@.partial $@

test: venv ## the fast tests
	"$(BIN)/python" -m pytest -n auto --dist loadfile -m "not slow and not data and not docker and not browser" $(PYTEST_ARGS)

test-slow: venv ## the slow tests, those on real images and in a browser (RADTRANSFER_DATA names the data root)
	"$(BIN)/python" -m pytest -rs -m "(slow or data or browser) and not docker" $(PYTEST_ARGS)

test-all: venv ## every test; those whose data, engine or browser is missing are skipped and say so
	"$(BIN)/python" -m pytest -rs $(PYTEST_ARGS)

lint: venv ## ruff: rules and formatting
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .

format: venv ## put the code into shape
	"$(BIN)/ruff" check --fix .
	"$(BIN)/ruff" format .

types: venv ## mypy, strict
	"$(BIN)/mypy"

compile: venv ## compile the pipelines into pipelines/compiled/
	"$(BIN)/radtransfer" compile --out pipelines/compiled

compile-check: venv ## fail when the committed compiled pipelines differ from a fresh compile
	@fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	"$(BIN)/radtransfer" compile --out "$$fresh"; \
	diff -ru pipelines/compiled "$$fresh" || { echo "pipelines/compiled is out of date: make compile"; exit 1; }

lock: venv ## resolve pyproject.toml into the lock files (UPGRADE="package ..." or ALL moves pins)
	"$(BIN)/python" scripts/lock.py $(UPGRADE)

manifests: venv ## render the Kubernetes manifests and validate them
	"$(BIN)/python" -m pytest tests/manifests $(PYTEST_ARGS)

dockerfile: venv ## lint the Dockerfile
	"$(BIN)/hadolint" images/Dockerfile

image: ## build IMAGE for FLAVOUR; see images/README.md for TORCH_INDEX, WHEELS, CA, NETWORK, BASE_IMAGE
	IMAGE="$(IMAGE)" FLAVOUR="$(FLAVOUR)" images/build

image-test: venv ## build the image and run components in it (needs a Docker engine)
	"$(BIN)/python" -m pytest -m docker -rs tests/images $(PYTEST_ARGS)

bench: venv ## measure what the orchestration costs
	"$(BIN)/python" benchmarks/overhead.py

clean: ## remove caches and build outputs; keeps the environment, data/ and runs/
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
