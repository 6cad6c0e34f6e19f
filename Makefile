PYTHON ?= python3
STAMP := .venv/.installed
# A file's tests stay together, as they share what its fixtures train. Files begin in order, so
# that the last are the package's examples, of less than a second each: no worker is left alone.
WORKERS := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# Most of the tests' time is compilation, which these halve; test-all compiles as users do.
QUICK := XLA_FLAGS="$(XLA_FLAGS) --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
INSTALL := .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' Makefile

demo: $(STAMP)-demo  ## train a BERT and a GPT on the same bytes and compare them (minutes, CPU)
	.venv/bin/python -m experiments.bert_vs_gpt --scale laptop

test: $(STAMP)-test  ## the tests, without the slow ones (minutes)
	$(QUICK) .venv/bin/python -m pytest -q $(WORKERS) -m "not slow and not plans" $(ARGS)

plans: $(STAMP)-test  ## each study's largest run compiled for the slice that its scale names (minutes)
	.venv/bin/python -m pytest -q -n auto --maxprocesses 2 --dist worksteal -m "plans and not slow" tests/plan/test_studies.py $(ARGS)

test-all: $(STAMP)-test  ## all tests: exhaustive grids, a hundred kills, every run's plan (hours)
	.venv/bin/python -m pytest -q $(WORKERS) $(ARGS)

lint: $(STAMP)-test  ## style, types, and which module may import which
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

$(STAMP)-demo: setup.cfg constraints.txt | .venv/bin/python
	@echo "installing yardstick-lm into .venv (about a minute)"
	$(INSTALL) -e .
	@touch $@

$(STAMP)-test: setup.cfg constraints.txt | .venv/bin/python
	@echo "installing yardstick-lm[test] into .venv (about a minute)"
	$(INSTALL) -e ".[test]"
	@touch $@ $(STAMP)-demo

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv

.PHONY: help demo test plans test-all lint
.DEFAULT_GOAL := help
