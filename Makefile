# Each target sets up what it needs. `make` lists them.
.DEFAULT_GOAL := help
SHELL := bash
PYTHON ?= python3
BIN := .venv/bin
# Stages run `python`; nothing phones home.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
export GX_ANALYTICS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true
# DVC ends without a name; in a container the user may be a mere number.
export LOGNAME ?= $(shell id -un 2>/dev/null)
PORT ?= 5000

.PHONY: help setup setup-backbones setup-audit setup-remotes setup-dicom setup-server setup-dev packages repository repro retrain pull push test lint format compare crossval benchmark ui serve lock clean-cache

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: .venv/requirements.txt  ## create .venv and install what is pinned in requirements.txt

setup-backbones: .venv/requirements-backbones.txt  ## add weights of efficientnet_lite1 and 2, and KerasHub for resnet34's

setup-audit: .venv/requirements-audit.txt  ## add cleanlab, which `python -m pneumonia audit` needs

setup-remotes: .venv/requirements-remotes.txt  ## add what DVC needs for remotes on S3, Google Cloud, Azure and SSH

setup-server: .venv/requirements-server.txt  ## add PostgreSQL's driver, for a tracking server: docs/server.md

setup-dicom: .venv/requirements-serve.txt  ## add decoders of compressed DICOM, and what `make serve` needs

setup-dev: .venv/requirements-dev.txt

.venv/%.txt: %.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else f"Python {sys.version.split()[0]} found. Expected: 3.11 to 3.13. Remedy: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing $< into .venv; the first time takes a minute or two."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --require-hashes -r $<
	@cp $< $@

# DVC needs one; a downloaded ZIP is none.
repository:
	@git rev-parse --git-dir >/dev/null || { echo "This folder is not in a git repository, which DVC needs." >&2; \
	  echo "  Expected: a clone, or git's consent to read the folder" >&2; \
	  echo "  Remedy: git clone, or here: git init && git add . && git commit -m 'As downloaded'" >&2; exit 1; }

# Of what DVC prints, a line per stage is left; its errors go to standard error and are shown as they are.
repro: repository setup  ## run the pipeline: dvc repro
	@python -m pneumonia.experiments.dvc_lock
	@python -m pneumonia.sources.folder
	@set -o pipefail; dvc repro | grep --line-buffered -vE "^(> |Running stage|Updating lock|To track|To enable|Use .dvc push|	|$$)"
	@python -m pneumonia status

# The shell reads BASE, RECIPE, SET and SOURCE from the environment: what people typed is never part of a command line.
retrain: repository setup  ## run the pipeline and compare its model with BASE's, HEAD's by default; RECIPE=, SET="name=value", SOURCE=
	@python -m pneumonia retrain --base "$${BASE:-HEAD}" --recipe "$$RECIPE" --set "$$SET" --source "$$SOURCE"

pull:  ## fetch from DVC's remote, if there is one, all that dvc.lock names
	@if dvc remote default; then dvc pull --run-cache --allow-missing; fi

push:  ## store it there
	@if dvc remote default; then dvc push --run-cache && echo "stored=true" >> "$${GITHUB_OUTPUT:-/dev/null}"; fi

test: packages setup-dev lint  ## lint, types and tests
	@python -m pytest

packages:
	@{ command -v chromium && ls /usr/lib/postgresql/*/bin/pg_ctl; } >/dev/null 2>&1 || { echo \
	  "The tests need Chromium and PostgreSQL. Remedy: sudo apt-get install chromium postgresql"; exit 1; }

lint: setup-dev
	@ruff check && ruff format --check && basedpyright
	@zizmor --quiet --offline --no-progress --persona=auditor .github/workflows
	@hadolint Dockerfile
	@check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

format: setup-dev
	@ruff check --fix && ruff format

RECIPES ?= default
compare: repository setup  ## run RECIPES="a b" as experiments, SET="name=value name=x,y" for each; one table, one figure, nothing registered
	@python -m pneumonia compare $(RECIPES) $(addprefix -S ,$(SET))

crossval: repository setup  ## cross-validate RECIPES="a b" by patient, FOLDS=5, SEEDS=3, SET="name=value name=x,y"; predictions, intervals, a page
	@dvc repro -q split
	@python -m pneumonia crossval $(RECIPES) --folds $(or $(FOLDS),5) --seeds $(or $(SEEDS),3) $(addprefix -S ,$(SET))

benchmark: .venv/requirements-serve.txt  ## compare with the plain way; DATA=folder: on its images, long; else on the phantom, 5 minutes
	@python -m benchmarks $(if $(DATA),--data $(DATA) --out docs/benchmark.md)

ui: setup  ## open the MLflow UI on this project's runs
	@echo "http://127.0.0.1:$(PORT) shows the runs; stop with Ctrl+C."
	@MLFLOW_TRACKING_URI= python -m pneumonia registry sync
	@mlflow server --backend-store-uri sqlite:///mlruns/mlflow.db --host 127.0.0.1 --port $(PORT)

serve: .venv/requirements-serve.txt  ## answer at http://127.0.0.1:8000: page, API and its documentation; MODEL=champion, PORT=8000
	@python -m pneumonia serve $${MODEL:+--model "$$MODEL"} $${PORT:+--port "$$PORT"}

COMPILE := uv pip compile pyproject.toml -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header
lock:  ## pin what pyproject.toml names, with hashes; needs uv. All of it at once, then parts of that
	$(COMPILE) --all-extras --group dev -o requirements-dev.txt
	$(COMPILE) --constraint requirements-dev.txt -o requirements.txt
	$(COMPILE) --extra backbones --constraint requirements-dev.txt -o requirements-backbones.txt
	$(COMPILE) --extra audit --constraint requirements-dev.txt -o requirements-audit.txt
	$(COMPILE) --extra remotes --constraint requirements-dev.txt -o requirements-remotes.txt
	$(COMPILE) --extra dicom --extra serve --constraint requirements-dev.txt -o requirements-serve.txt
	$(COMPILE) --extra server --constraint requirements-dev.txt -o requirements-server.txt

clean-cache:  ## delete cached activations and unfinished trainings
	@rm -rf .cache
