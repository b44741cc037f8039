# Two commands are enough for a stranger: `make demo` and `make test`; both install what they need into .venv first.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test slow sync refresh lab gpu bench docs

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
RUN ?= out/demo
LIB := $(sort $(wildcard nbs/lib/*.ipynb nbs/lib/*/*.ipynb))
LIVE := $(LIB) $(sort $(wildcard nbs/runs/*.ipynb) $(wildcard nbs/tour/*.ipynb))

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 14

# A stamp, so that the second `make` starts at once and a changed pin installs again.
$(STAMP): setup.py settings.ini constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"constraints.txt is for Python 3.11 or later and this is {v[0]}.{v[1]}: make PYTHON=python3.11 setup")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(STAMP)  ## .venv with the pinned versions, and git's merge driver for notebooks
	@! git rev-parse --git-dir >/dev/null 2>&1 || git config merge.nbdev-merge.driver '$(BIN)/nbdev_merge %O %A %B %P'

demo: setup  ## the bundled model on the embedded reviews: probe, neuron, heatmap, steered pair; then a short training run
	$(BIN)/sentiment-kit run demo

test: setup  ## every notebook and guard but the slow ones and those that need a GPU
	$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal -m 'not slow and not cuda' tests

slow: setup  ## the tests left out above: wheel in a clean environment, long notebooks
	$(BIN)/python -m pytest -m 'slow and not cuda' tests

sync: setup  ## after editing notebooks: format, clean, a PNG beside each figure, export the package, write the README
	$(BIN)/ruff check --fix-only --quiet nbs tests setup.py
	$(BIN)/ruff format --quiet nbs tests setup.py
	$(BIN)/python tests/sync.py

refresh: setup  ## execute every notebook in place and redraw the README's pictures from RUN=out/…
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace --log-level WARN $(LIVE)
	$(BIN)/python tests/pictures.py $(RUN)
	$(BIN)/python tests/sync.py

lab: setup  ## JupyterLab on the notebooks; opens the one to play with
	$(BIN)/jupyter lab --ServerApp.root_dir=nbs --LabApp.default_url=/lab/tree/tour/00_play.ipynb

# A GPU box often has a torch of its own and nothing else: this one runs with its python3, not with .venv.
gpu:  ## on CUDA: correctness, speed of whole steps, training after reading, one leg; under 8 minutes, into out/gpu
	PYTHONPATH=. $(PYTHON) tests/gpu.py $(GPU)

bench: setup  ## speed beside its peers and its floor, 7 minutes on an idle machine, into out/bench
	$(BIN)/sentiment-kit run bench

docs: setup  ## the notebooks as static pages in out/docs; RUN=out/… adds that run's executed notebooks
	$(BIN)/python tests/pages.py $(if $(wildcard $(RUN)/notebooks),$(RUN))
