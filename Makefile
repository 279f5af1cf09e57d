# `make demo` and `make test` need Python 3.11 to 3.13 and make, nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow test-browser check format clean

demo: $(VENV)/.demo
	$(BIN)/keras-resnet demo

test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0 -m "not slow and not gpu and not network and not browser"

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m "slow and not gpu and not network and not browser"

# apt-get install chromium chromium-driver, or what your system calls them
test-browser: $(VENV)/.test
	$(BIN)/python -m pytest -m browser

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# one stamp an extra of setup.cfg
$(VENV)/.%: setup.cfg constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[$*]"
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache
