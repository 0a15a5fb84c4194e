# make study    the default token-scaling study, set-up included (see README.md for the time it takes)
# make test     all tests
# make check    format, lint, types, import contract
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: study test check setup lock clean

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
	$(BIN)/workbench run experiments=token_scaling

test: $(STAMP)
	$(BIN)/python -m pytest

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/nbstripout --verify experiments/*.ipynb

# Writes what is installed; do so after changing pyproject.toml and installing it, then commit the lock.
lock:
	$(BIN)/pip freeze --exclude-editable | grep -v '^setuptools' | sed 's/+cpu//' | sort -f > requirements.lock

clean:
	rm -rf $(VENV) outputs
