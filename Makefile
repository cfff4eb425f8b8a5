# Everything runs in .venv, made from requirements.lock: all that a machine needs is make and Python 3.11 to 3.13.
# Another interpreter: make test PYTHON=python3.13. More arguments for the command: make test ARGS="-k graph".

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TORCH_VENV := .venv-torch
TORCH_INSTALLED := $(TORCH_VENV)/.installed
# What requirements.lock holds: all extras but torch, which is too large.
EXTRAS := bench dask dev docs flax images keras ray report tflm vela
# What `make coverage` measures, and the tests that are about it.
CORE := numerics plan sites ranges floors judgement ops qtypes recipe recipe_file graph tflite passes calibrate algorithms
CORE_TESTS := numerics planning ranges recipe quantize passes passes_patterns fake_quant_marks tflite files metadata verify \
	versions calibration_data collect shards algorithms ops rounding equalize smoothquant recurrent state expose \
	level_channels judgement blocks layout fix_shapes dequantize spell_out_int16 npz parity bad_data differential \
	metamorphic fuzz input_scaling passes_keras qat_four_bits
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help coverage mutants test-torch bench bench-speed bench-qat bench-scaling bench-zoo demo docs test test-slow zoo fuzz lint format types check largest lock audit clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## Train on MNIST, quantize it each way, evaluate, print the table; the files go to octavo-demo/
	@$(BIN)/octavo demo $(ARGS)

docs: $(INSTALLED) ## Build the documentation as a site in site/, with the API from docstrings
	@$(BIN)/python -m mkdocs build --quiet --strict $(ARGS)

test: $(INSTALLED) ## Run the tests, less the slow ones
	@$(BIN)/python -m pytest -q -n auto --dist worksteal $(ARGS)

# On Linux without CUDA: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make test-torch
test-torch: $(TORCH_INSTALLED) ## Run the tests that need PyTorch, in an environment of its own (.venv-torch, 2 GB)
	@PYTHONPATH=src $(TORCH_VENV)/bin/python -m pytest -q -m torch tests/pytorch tests/test_docs.py $(ARGS)

test-slow: $(INSTALLED) ## Run the tests that take minutes
	@$(BIN)/python -m pytest -q -m slow $(ARGS)

coverage: $(INSTALLED) ## Branch coverage of the core, by the tests that are about it (CORE_TESTS); fails under 95 %
	@$(BIN)/python -m pytest -q -n 0 --cov-branch $(addprefix --cov=octavo.,$(CORE)) --cov-report=term-missing:skip-covered \
		--cov-fail-under=95 $(addprefix tests/test_,$(addsuffix .py,$(CORE_TESTS))) $(ARGS)

# In a copy, and with an environment that adds mutmut to .venv's packages: nothing here is changed. The settings are in
# pyproject.toml. ARGS="--max-children 2" for two at a time; ARGS="'octavo.numerics.*'" for some of the changes.
mutants: $(INSTALLED) ## Change numerics.py and plan/ in 2,000 small ways, one by one, and show what no test notices
	@set -e; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	$(BIN)/python -m venv "$$folder/venv"; \
	"$$folder/venv/bin/python" -m pip --disable-pip-version-check install --quiet mutmut; \
	packages='import sysconfig; print(sysconfig.get_path("purelib"))'; \
	$(BIN)/python -c "$$packages" > "$$("$$folder/venv/bin/python" -c "$$packages")/shared.pth"; \
	cp -R src tests pyproject.toml "$$folder"; cd "$$folder"; \
	venv/bin/mutmut run $(ARGS); \
	venv/bin/mutmut results | sed -n 's/^ *\(.*\): \(survived\|no tests\|timeout\|suspicious\)$$/\1/p' | \
	while read -r name; do venv/bin/mutmut show "$$name"; done

zoo: $(INSTALLED) ## Quantize the models that wheels on PyPI carry, each way, and write docs/zoo.md
	@$(BIN)/python tools/zoo.py --out docs/zoo.md $(ARGS)

bench: $(INSTALLED) ## Compare with all peers on MNIST; on another model: ARGS="--model model.tflite --data samples.npz"
	@$(BIN)/python bench/accuracy.py $(ARGS)

bench-speed: $(INSTALLED) ## Time whole conversions, and what they write, next to TFLiteConverter and ai-edge-quantizer
	@$(BIN)/python bench/speed.py $(ARGS)

bench-scaling: $(INSTALLED) ## Measure how time and memory grow, and write docs/scaling.md and its plots
	@$(BIN)/python bench/scaling.py $(ARGS)

bench-qat: $(INSTALLED) ## Time a training step with the device's rounding, next to tfmot's
	@$(BIN)/python bench/qat_step.py $(ARGS)

bench-zoo: $(INSTALLED) ## Time what octavo and ai-edge-quantizer make of the zoo's models, on the same runtime
	@$(BIN)/python bench/zoo_latency.py $(ARGS)

fuzz: $(INSTALLED) ## Read 3,000 damaged files; ARGS="--files 100000" for many, a folder for more models to start from
	@$(BIN)/python tools/fuzz.py $(ARGS)

lint: $(INSTALLED) ## Check style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(INSTALLED) ## Put the formatting right
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(INSTALLED) ## Check the types
	@$(BIN)/basedpyright --pythonpath $(BIN)/python

largest: $(INSTALLED) ## List the longest files and functions
	@$(BIN)/python tools/largest.py

check: lint types largest ## lint, types and largest

# uv reads the resolver's rules for three Python versions at once, which pip can't; it lives in a folder of its own.
lock: ## Resolve the dependencies anew into requirements.lock
	@set -e; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	$(PYTHON) -m venv "$$folder"; \
	"$$folder/bin/python" -m pip --disable-pip-version-check install --quiet uv; \
	"$$folder/bin/uv" pip compile --quiet --upgrade --universal --python-version 3.11 --fork-strategy fewest \
	  $(EXTRAS:%=--extra %) --generate-hashes --no-annotate --no-emit-index-url --custom-compile-command "make lock" \
	  pyproject.toml --output-file requirements.lock

# --strict: a package whose advisories can't be looked up is a failure too, not a package without advisories.
audit: ## Look for known vulnerabilities in what requirements.lock names
	@set -e; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	$(PYTHON) -m venv "$$folder"; \
	"$$folder/bin/python" -m pip --disable-pip-version-check install --quiet pip-audit; \
	"$$folder/bin/pip-audit" --strict --disable-pip --require-hashes -r requirements.lock $(ARGS)

clean: ## Remove .venv and all that was built
	rm -rf $(VENV) $(TORCH_VENV) build dist .pytest_cache .ruff_cache .hypothesis octavo-demo site
	find src tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

# --no-deps: the lock file is complete. Left to resolve it again, older pips take the newest release for a name with an
# extra ("coverage[toml]") and then refuse it for not being the one locked; `pip check` says whether anything is missing.
$(INSTALLED): requirements.lock pyproject.toml
	@python=$(PYTHON); if [ -x $(BIN)/python ]; then python=$(BIN)/python; fi; \
	"$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "octavo needs Python 3.11 to 3.13, and $$python is $$("$$python" --version 2>&1)." \
	    "Run 'make clean', then name another: make PYTHON=python3.12" >&2; exit 1; }
	@if [ ! -x $(BIN)/python ]; then echo "Setting up $(VENV)"; $(PYTHON) -m venv $(VENV); fi
	@echo "Installing requirements.lock (a minute or two)"
	@$(PIP) install --quiet --require-hashes --no-deps -r requirements.lock
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@$(PIP) check --quiet
	@touch $@

$(TORCH_INSTALLED): requirements-torch.txt
	@if [ ! -x $(TORCH_VENV)/bin/python ]; then echo "Setting up $(TORCH_VENV)"; $(PYTHON) -m venv $(TORCH_VENV); fi
	@echo "Installing requirements-torch.txt (a few minutes)"
	@$(TORCH_VENV)/bin/python -m pip --disable-pip-version-check install --quiet -r requirements-torch.txt
	@touch $@
