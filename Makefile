# The commands of the house. `make help` lists them.

VENV ?= .venv
HOST ?= 127.0.0.1
PORT ?= 3000
PYTHON ?= python3
RECIPES ?= --all
BENCH ?=
FLAVOUR ?= cpu
CASES ?= 100000
SEED ?= 1

BIN := $(VENV)/bin
# uv keeps what it installed before; the home of BentoML's own files stays inside the checkout's venv.
UV := $(BIN)/uv
export BENTOML_DO_NOT_TRACK ?= True

.DEFAULT_GOAL := help
.PHONY: help serve test dev train image bench bench-gpu bench-training fuzz lint audit format lock clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16
	@echo
	@echo "variables: VENV=$(VENV) HOST=$(HOST) PORT=$(PORT) PYTHON=$(PYTHON) RECIPES='$(RECIPES)' BENCH='$(BENCH)' FLAVOUR=$(FLAVOUR) CASES=$(CASES) SEED=$(SEED)"

serve: $(VENV)/.serve ## serve the packages in models/ on http://HOST:PORT
	$(BIN)/python -m service --host $(HOST) --port $(PORT)

test: $(VENV)/.all $(VENV)/.clients ## run the whole test suite
	$(BIN)/python -m pytest

dev: $(VENV)/.all $(VENV)/.clients ## install what training, the tests and the README's examples need

train: $(VENV)/.all ## fit, prove and write packages (RECIPES="mnist-mlp ..."; default all)
	$(BIN)/python -m training fit $(RECIPES)

image: $(VENV)/.all ## build the image fitserve:FLAVOUR, cpu or gpu (deploy/container/README.md)
	VENV=$(VENV) deploy/container/build.sh $(FLAVOUR)

bench: $(VENV)/.all ## measure the service and its peers (BENCH="--only throughput --rounds 1")
	$(BIN)/python -m benchmarks.serving $(BENCH)

bench-gpu: $(VENV)/.all ## measure each way to a GPU, by batch size
	$(BIN)/python -m benchmarks.gpu

bench-training: $(VENV)/.all ## time one epoch against the plain tutorial loop
	$(BIN)/python -m benchmarks.training

fuzz: $(VENV)/.all ## send nonsense to a server (CASES=1000000 SEED=1)
	$(BIN)/python tests/end_to_end/fuzz.py --cases $(CASES) --seed $(SEED)

lint: $(VENV)/.all ## ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory audit

# pip-audit asks PyPI for the advisories of each release in the lock; first we ask for those of one.
audit: $(VENV)/.uv ## look the lock up among the known vulnerabilities
	@if $(BIN)/python -c 'from urllib.request import urlopen; from json import load; \
	  load(urlopen("https://pypi.org/pypi/pip/26.0/json", timeout=5))["vulnerabilities"]' 2>/dev/null; \
	then $(UV) tool run -q pip-audit==2.10.0 --strict --disable-pip --require-hashes \
	  -r requirements/all.txt; \
	else echo "no index of advisories can be reached: the lock is not audited"; fi

format: $(VENV)/.all ## let ruff format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

LOCK := pip compile -q --universal --python-version 3.11 --no-annotate --no-header --no-emit-index-url

# cpu.txt is serve-onnx with the small ONNX Runtime, in the version that the large one has.
lock: $(VENV)/.uv ## resolve requirements/ anew from pyproject.toml, with the digest of each file
	$(UV) $(LOCK) --generate-hashes --all-extras pyproject.toml -o requirements/all.txt
	$(UV) $(LOCK) --generate-hashes --extra serve -c requirements/all.txt pyproject.toml \
	  -o requirements/serve.txt
	sed -n 's/^onnxruntime-gpu==\([^ ]*\).*/onnxruntime==\1/p' requirements/all.txt > $(VENV)/cpu.in
	echo onnxruntime-gpu > $(VENV)/cpu.excluded
	$(UV) $(LOCK) --generate-hashes --extra serve-onnx -c requirements/all.txt \
	  --excludes $(VENV)/cpu.excluded pyproject.toml $(VENV)/cpu.in -o requirements/cpu.txt
	for peer in benchmarks/serving/peers/*/; do \
	  $(UV) $(LOCK) $${peer}requirements.in -o $${peer}requirements.txt || exit 1; done
	$(UV) $(LOCK) --generate-hashes requirements/clients.in -o requirements/clients.txt

clean: ## remove the virtual environment and every cache
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# Each install leaves a mark, so that a second run starts at once.

$(VENV)/.uv:
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else \
	  "fitserve needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is " + sys.version.split()[0] + \
	  ": name another with make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@sed -n '/^uv==/,/[^\\]$$/p' requirements/all.txt > $@.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r $@.txt
	@touch $@

$(VENV)/.serve: requirements/serve.txt pyproject.toml | $(VENV)/.uv
	$(UV) pip install -q --python $(BIN)/python --require-hashes -r requirements/serve.txt
	@touch $@

# Compiled, as the tests start some hundred processes, and where Python is told to keep no bytecode
# each of them would compile the libraries anew.
$(VENV)/.all: requirements/all.txt pyproject.toml | $(VENV)/.uv
	$(UV) pip install -q --compile-bytecode --python $(BIN)/python --require-hashes -r requirements/all.txt
	@touch $@ $(VENV)/.serve

# Other servers' clients, for the tests. perf_analyzer's wheels are for glibc 2.38 or later alone.
$(VENV)/.clients: requirements/clients.txt | $(VENV)/.uv
	$(UV) venv -q --allow-existing --python $(BIN)/python $(VENV)/clients
	$(UV) pip install -q --python $(VENV)/clients/bin/python --require-hashes -r requirements/clients.txt
	@$(UV) pip install -q --python $(VENV)/clients/bin/python perf-analyzer==2.60.0 2>/dev/null \
	  || echo "perf_analyzer has no wheel for this machine: its tests will skip"
	@touch $@
