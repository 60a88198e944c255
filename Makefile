# make demo    set up, start a node, send it a series by C-STORE and one by STOW-RS, show the results
# make test    set up, run all tests
# make test-data   fetch the public cases that tests look at (80 MB); MIRROR=file:///folder or URL
# make test-without-torch   the road again where torch and monai are absent
# make check   formatting, lints, types, import rules, spelling
# make coverage   the tests again, with branch coverage, each room held against its floor
# make bench   benchmarks against dcmtk, Orthanc, highdicom and dcmqi in the same run
# make image   build the container image; ENGINE=podman, OPTIONS='--build-arg TORCH_INDEX=...': docs/docker.md
# make peers   install what the tests need from Debian or Ubuntu (root, or sudo)

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
BARE   := .venv-without-torch
ENGINE := docker
# one more than there are cores: tests of the whole road wait for peers most of the time
WORKERS := $(shell expr $$(nproc) + 1)
PEERS  := dcmtk dicom3tools orthanc orthanc-dicomweb orthanc-python postgresql gcc libc6-dev openssl curl

.PHONY: setup demo test test-data test-without-torch test-long coverage check bench image peers clean

setup: $(VENV)/.dev

$(VENV)/.run: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "segnode needs Python 3.11 or newer; set PYTHON=python3.x"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "could not make a virtual environment: apt install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/python -m pip install --quiet -c constraints.txt --group dev -e '.[postgres,monai]'
	@touch $@

$(BARE)/.dev: pyproject.toml constraints.txt
	@test -x $(BARE)/bin/python || $(PYTHON) -m venv $(BARE)
	$(BARE)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BARE)/bin/python -m pip install --quiet -c constraints.txt --group dev -e '.[postgres]'
	@touch $@

demo: $(VENV)/.run
	$(BIN)/segnode demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not long" -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-data: $(VENV)/.dev
	$(BIN)/python -m tests.support.fetch_cases $(if $(MIRROR),--mirror $(MIRROR))

test-without-torch: $(BARE)/.dev
	$(BARE)/bin/python -m pytest -m "not long" -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
	  tests/infer tests/models tests/encode/test_seg_voxels.py tests/e2e/test_voxel_truth.py

test-long: $(VENV)/.dev
	$(BIN)/python -m pytest

coverage: $(VENV)/.dev
	$(BIN)/python -m coverage run -m pytest -q -m "not long" -n $(WORKERS) --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m coverage combine -q
	$(BIN)/python -m coverage report
	$(BIN)/python -m coverage json -q -o .coverage.json
	$(BIN)/python -m tests.support.coverage_floor .coverage.json

check: $(VENV)/.dev
	$(BIN)/ruff format --check node tests
	$(BIN)/ruff check node tests
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell node tests docs config README.md CHANGELOG.md CONTRIBUTING.md

bench: $(VENV)/.dev
	$(BIN)/python -m tests.bench

image:
	$(ENGINE) build $(if $(findstring podman,$(ENGINE)),--format docker) -f docker/Dockerfile -t segnode \
	  --build-arg VERSION=$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml) $(OPTIONS) .

peers:
	@missing=$$(for p in $(PEERS); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
	if [ -n "$$missing" ]; then \
	  sudo=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	  $$sudo apt-get update -q && DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -q -y --no-install-recommends $$missing; \
	fi

clean:
	rm -rf $(VENV) $(BARE) segnode-demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
