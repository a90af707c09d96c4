# Two commands do everything a newcomer needs: `make demo` and `make test`.
# Each sets up what it needs first (a virtual environment in .venv; as root on Debian also system programs).

VENV ?= .venv
PY := $(VENV)/bin/python
MODULES := $(shell find netstack -name '*.py')
SOURCES := pyproject.toml $(wildcard setup.py native/*.py native/src/*.c native/include/*.h)
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-compiled check lint build compiled install bench docs clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 21

demo: $(VENV)/.demo  ## set up, replay a capture, then run real programs behind the engine
	@$(PY) scripts/demo.py

test: $(VENV)/.test  ## set up, then every test that this machine allows
	@$(PY) -m pytest $(ARGS)

test-compiled: $(VENV)/.test compiled  ## the tests that need no network again, of the compiled modules
	@NETSTACK_EXPECT=compiled $(PY) -m pytest -q -o "pythonpath=build/compiled ." $(ARGS) \
	  tests/house/test_compiled.py tests/unit tests/scenario tests/differential tests/property tests/replay

check: lint test  ## tests, ruff, mypy --strict

lint: $(VENV)/.dev  ## ruff, mypy --strict, layering and house rules
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy
	@$(PY) -m pytest -q tests/house

build: $(VENV)/.demo  ## build the native codec in place
	@$(PY) -m pip install --quiet "cffi>=1.16" "setuptools>=68"
	@$(PY) setup.py -q build_ext --inplace
	@$(PY) -c "from netstack.codec import load; load('native'); print('native codec built')"

compiled: build/compiled/.done  ## the package as a wheel has it, its pipeline compiled, in build/compiled

build/compiled/.done: $(VENV)/.demo $(MODULES)
	@$(PY) -m pip install --quiet --disable-pip-version-check "mypy>=1.15" "cffi>=1.16" "setuptools>=77"
	@NETSTACK_COMPILE=1 $(PY) setup.py -q build --build-lib build/compiled --build-temp build/temp
	@touch $@

install: $(VENV)/.demo  ## install into .venv what users get: compiled, a copy of the sources as they are now
	@$(PY) -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps .

bench: build  ## measure, and compare with the baseline (ARGS="--quick", "--only live", --strict)
	-@$(MAKE) --no-print-directory compiled
	@$(PY) -m benchmarks $(ARGS)

docs: $(VENV)/.demo  ## write the generated pages again (docs/configuration.md, docs/events.md)
	@$(PY) scripts/make_reference.py
	@$(PY) docs/make_state_diagram.py

clean:  ## remove everything that the other targets made
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(wildcard netstack native bindings) -name '*.so' -delete -o -name '*.o' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: one for each set of extras, made again when the metadata or the C sources change.
$(VENV)/.demo: $(SOURCES) scripts/setup.sh
	@scripts/setup.sh install $(VENV) all
	@touch $@

$(VENV)/.test: $(SOURCES) scripts/setup.sh
	@scripts/setup.sh system
	@scripts/setup.sh install $(VENV) all,test
	@touch $@ $(VENV)/.demo

$(VENV)/.dev: $(SOURCES) scripts/setup.sh
	@scripts/setup.sh install $(VENV) all,test,dev
	@touch $@ $(VENV)/.demo
