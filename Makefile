# Two commands on a fresh machine: `make demo` and `make test`. Each sets up .venv by itself, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Installed is what these two files say; a change of either installs again, into the same .venv.
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

.PHONY: demo test check zoo compare-presets format nightly nightly-cuda nightly-plans nightly-search nightly-interrupts \
	oracle matrix clean

demo: $(INSTALLED)
	$(BIN)/vram demo

# Two processes: the tests are many and small, and a laptop has at least two cores. Files in their own order: by the
# number of their tests, the few long ones would come last, in one process. One thread each: tensors here are small.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: $(INSTALLED)
	$(PYTEST)

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/lint-imports

# Writes docs/zoo.md: every model at full size under every mode. Long; `benchmarks/zoo.py --resume` goes on where it stopped.
zoo: $(INSTALLED)
	$(BIN)/python benchmarks/zoo.py

# Writes docs/presets.md: diffusers' presets beside our plan, on GPUs of 8 to 24 GB.
compare-presets: $(INSTALLED)
	$(BIN)/python benchmarks/presets.py

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Every test, the long matrices included: each model under each mode, every command of the guide. Half an hour.
nightly: $(INSTALLED)
	$(PYTEST) --nightly

# The CUDA build of torch in an environment of its own (6 GB, once), and its predictions against ours. Needs no GPU.
nightly-cuda: $(INSTALLED)
	$(BIN)/python benchmarks/cuda_build.py

# Five hundred random plans, each run under its budget as the GPU's capacity. An hour.
nightly-plans: $(INSTALLED)
	$(BIN)/python -m pytest tests/sizing/test_capacity.py --plan-cases 500

# A hundred searches of full size beside those of OR-Tools' CP-SAT, with the seconds of both. Half an hour.
nightly-search: $(INSTALLED)
	$(BIN)/python -m pytest tests/planning/test_search_cp_sat.py --search-cases 100 -rP

# An interrupt at every line of entering, leaving, applying and undoing. An hour.
nightly-interrupts: $(INSTALLED)
	$(BIN)/python -m pytest tests/tracing/test_interrupted.py tests/applying/test_interrupted_plans.py --interrupts 0 -rP

# PyTorch's own CUDA build on a stand-in for the GPU, and its figures against ours: tests/oracle/README.md. It sets up an
# environment of its own (5 GB, once). First what needs a GPU, the tests marked so among it, and the tracer's events: half
# an hour. Then the matrix of figures: half an hour the first time; what was run before is not run again.
oracle: $(INSTALLED)
	$(BIN)/python tests/oracle/oracle_operators.py
	$(BIN)/python tests/oracle/oracle_path.py
	$(BIN)/python tests/oracle/oracle_events.py
	$(BIN)/python tests/oracle/oracle.py

# Other releases of the libraries, each set in an environment of its own (1.5 GB each, once), and docs/compatibility.md.
# An hour the first time.
matrix: $(INSTALLED)
	$(BIN)/python tests/matrix/matrix.py

clean:
	rm -rf $(VENV) .venv-cuda .venv-oracle* .venv-matrix vram-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# torch comes first and alone, so that whichever build your index offers first (the CPU build is
# enough) stays, and nothing after it can ask for another.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable ".[dev]"
	touch $@
