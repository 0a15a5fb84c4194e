# make study    a token-scaling study for two cores, set-up included (see README.md for the time it takes)
# make test     all tests
# make check    format, lint, types, import contract
# make slurm-demo       a Slurm of two nodes on this machine, to try the launcher on (root; Debian packages)
# make slurm-demo-stop  end it
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
TESTS_ONLY := $(VENV)/tests-only
DEMO := outputs/slurm-demo

.PHONY: study test check slurm-demo slurm-demo-stop setup lock clean

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"Python >= 3.11 is needed, {sys.version.split()[0]} is here: set PYTHON=")'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "Python's venv is missing (Debian: apt-get install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --editable .
	@$(BIN)/python -m workbench.train.compiler
	@touch $@

study: $(STAMP)
	$(BIN)/workbench run experiments=token_scaling_laptop

test: $(STAMP) $(TESTS_ONLY)/installed
	$(BIN)/python -m compileall -q workbench analysis hydra_plugins
	$(BIN)/python tests/side_by_side.py

$(TESTS_ONLY)/installed: requirements-tests.lock $(STAMP)
	rm -rf $(TESTS_ONLY)
	$(BIN)/pip install --quiet --no-deps --target $(TESTS_ONLY) --requirement requirements-tests.lock
	@touch $@

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/nbstripout --verify experiments/*.ipynb

slurm-demo: $(STAMP)
	@$(BIN)/python tests/slurm/two_nodes.py start $(DEMO)

slurm-demo-stop:
	@$(PYTHON) tests/slurm/two_nodes.py stop $(DEMO)

# Writes what is installed; do so after changing pyproject.toml and installing it, then commit the lock.
lock:
	$(BIN)/pip freeze --exclude-editable | grep -v '^setuptools' | sed 's/+cpu//' | sort -f > requirements.lock

# A Slurm whose folder is gone could not be stopped any more.
clean: slurm-demo-stop
	rm -rf $(VENV) outputs
