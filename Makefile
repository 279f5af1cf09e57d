# `make demo` and `make test` need Python 3.11 to 3.13 and make, nothing else; `make addons` Python 3.11.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

OLD_PYTHON ?= python3.11
OLD_VENV ?= .venv-addons
# files that import what that stack lacks hold no test for it
OLD_TESTS = $(shell grep -l mark.addons tests/test_*.py)
SHORT = logits and (18 or 26d) or trace_resnet18d or test_trained_model or test_pixels_answer or tfa.MovingAverage or yiq

QUICK = -m "not slow and not gpu and not network and not browser"
# TensorFlow leaves it off on processors with AVX2 alone, and is slower there
export TF_ENABLE_ONEDNN_OPTS ?= 1
# files of which tests look at what oneDNN does, or hold only by what they ask for
ONEDNN_TESTS = tests/test_export.py tests/test_formats.py tests/test_savedmodel.py \
	tests/test_signatures.py tests/test_tf_serving.py

# TensorFlow's start-up log is no output of a cell
RUN_NOTEBOOKS = TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python -m pytest --nbmake --nbmake-timeout 120 \
	--durations 0 docs/tutorials/*.ipynb
KEEP = --CoalesceStreamsPreprocessor.enabled=True --ClearMetadataPreprocessor.enabled=True \
	--ClearMetadataPreprocessor.preserve_nb_metadata_mask=kernelspec

.PHONY: demo test test-without-onednn test-slow test-browser addons test-addons test-addons-short check format docs notebooks record-notebooks release-check clean

demo: $(VENV)/.demo
	$(BIN)/keras-resnet demo

test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0 --no-loadscope-reorder $(QUICK)

test-without-onednn: $(VENV)/.test
	TF_ENABLE_ONEDNN_OPTS=0 $(BIN)/python -m pytest -n 2 --dist loadfile $(QUICK) $(ONEDNN_TESTS)

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "slow and not gpu and not network and not browser"

# apt-get install chromium chromium-driver, or what your system calls them
test-browser: $(VENV)/.test $(VENV)/.docs
	$(BIN)/python -m pytest -m browser

# the stack of TensorFlow Addons, which ended: its warnings are not ours to mend
addons: $(OLD_VENV)/.made

test-addons: addons
	$(OLD_VENV)/bin/python -m pytest -m addons -W ignore $(OLD_TESTS)

test-addons-short: addons
	$(OLD_VENV)/bin/python -m pytest -m addons -W ignore $(OLD_TESTS) -k "$(SHORT)"

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# the site, in build/site; Material's notice of another builder is not ours to heed
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# the tutorials that are notebooks, each cell within two minutes; their outputs are not kept
notebooks: $(VENV)/.notebooks
	$(RUN_NOTEBOOKS)

# the same, and keeps the outputs, without times and the like of this machine
record-notebooks: $(VENV)/.notebooks $(VENV)/.docs
	$(RUN_NOTEBOOKS) --overwrite
	$(BIN)/jupyter nbconvert --log-level WARN --to notebook --inplace $(KEEP) docs/tutorials/*.ipynb

# the wheel alone, in an environment of its own, must do the main job
release-check: $(VENV)/.dev
	rm -rf dist .venv-release
	$(BIN)/python -m build --outdir dist
	$(PYTHON) -m venv .venv-release
	.venv-release/bin/python -m pip install --quiet -c constraints.txt "$$(ls dist/*.whl)[demo]"
	cd "$$(mktemp -d)" && "$(CURDIR)/.venv-release/bin/keras-resnet" demo

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# one stamp an extra of setup.cfg
$(VENV)/.%: setup.cfg constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[$*]"
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(OLD_VENV)/.made: setup.cfg constraints-addons.txt
	$(OLD_PYTHON) -m venv $(OLD_VENV)
	$(OLD_VENV)/bin/python -m pip install --quiet -c constraints-addons.txt -e ".[addons,demo]" pytest
	touch $@

clean:
	rm -rf $(VENV) $(OLD_VENV) .venv-release build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
