# `make` alone lists what there is. Set-up happens once, in .venv, and again only when one of its inputs has changed.
PYTHON ?= python3.11
BIN    := $(CURDIR)/.venv/bin
STAMP  := .venv/.set-up
export PYTHONWARNINGS := ignore:IProgress not found
export PATH := $(BIN):$(PATH)
.DEFAULT_GOAL := help
.PHONY: help setup dry-run repro repro-all test lab site bench notebooks clean

help:       ## this list
	@grep -hE '^[a-z-]+: .*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | while IFS="$$(printf '\t')" read -r t d; do printf '  make %-10s %s\n' "$$t" "$$d"; done

setup: $(STAMP)  ## environment in .venv and git hooks; does nothing when nothing is to do

$(STAMP): settings.ini setup.py pyproject.toml constraints.txt
	@echo "set-up: pinned packages into .venv; about 6 GB on disk, 2 to 10 minutes, once"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo "Python 3.11 is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	@# twice, because pip calls a resolution impossible when an index once fails to answer
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev,docs]' || $(BIN)/python -m pip install -c constraints.txt -e '.[dev,docs]'
	@# nbdev also writes a Jupyter save hook: it goes into .venv (make lab reads it there), not into the user's home
	@if [ -d .git ]; then GIT_CONFIG_GLOBAL="$${GIT_CONFIG_GLOBAL:-$$HOME/.gitconfig}" HOME=$(CURDIR)/.venv $(BIN)/nbdev_install_hooks && sed -i 's#^nbdev_trust#"$(BIN)/nbdev_trust"#' .git/hooks/post-merge; else echo "no git checkout: no git hooks"; fi
	@touch $@

dry-run: setup  ## the plan alone: stages, cells, predicted minutes, disk
	@$(BIN)/dap check

repro: setup  ## run the whole chain; ARGS=--dry-run prints only the plan, other ARGS go to dvc repro
	@$(BIN)/dap check
ifeq (,$(findstring --dry-run,$(ARGS)))
	$(BIN)/dvc repro $(ARGS)
	@echo "done: tables and pictures are in results/default (results/default/*.md, *.png), executed notebooks in results/default/notebooks; make site shows all of it"
endif

repro-all: setup  ## the full grid: hours; what a stopped run has made is kept; ARGS=--dry-run prints only the plan
	@$(BIN)/dap check --grid
ifeq (,$(findstring --dry-run,$(ARGS)))
	$(BIN)/dvc repro $(ARGS) full/dvc.yaml
	@echo "done: results/full/table3.md, results/full/claim.csv, results/full/*.png"
endif

test: setup  ## every test: the library notebooks, then pytest
	OMP_NUM_THREADS=1 $(BIN)/nbdev_test --file_re '^\d\d_' --n_workers 2 --do_print
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(ARGS)

lab: setup  ## JupyterLab on the notebooks
	JUPYTER_CONFIG_PATH=$(CURDIR)/.venv/.jupyter $(BIN)/jupyter lab nbs $(ARGS)

site: setup  ## the site, offline: notebooks, executed experiments, results
	@rm -rf site
	$(BIN)/python docs/stage.py docs/_src
	$(BIN)/python -m sphinx -W --keep-going -q -E -d docs/_src/.doctrees -b html docs/_src site
	@echo "open $(CURDIR)/site/index.html"

bench: setup  ## timings on this machine: FLOPs and seconds per step
	$(BIN)/dap run nbs/experiments/cost.ipynb results/default/notebooks/cost.ipynb

notebooks: setup  ## execute, clean and export the library notebooks; README.md from nbs/index.ipynb
	OMP_NUM_THREADS=1 $(BIN)/python docs/readme.py --execute $(NB)
	$(BIN)/nbdev_clean
	$(BIN)/nbdev_export
	$(BIN)/python docs/readme.py

clean:      ## remove what can be rebuilt in seconds (not .venv, data or results)
	rm -rf site docs/_src _proc build dist *.egg-info .pytest_cache
	find dap tests docs nbs -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
