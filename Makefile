# Everything a newcomer needs: `make quickstart` and `make test`. Both install into .venv and nowhere else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -qq -c constraints.txt

.PHONY: help quickstart test check format clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

quickstart: $(VENV)/.runs ## install, make the demo data, fine-tune a tiny GLM on real chats, talk to it (about 3 minutes)
	@$(BIN)/glm-train demo demo
	@echo && $(BIN)/glm-train fit quickstart
	@echo && echo "Three questions from the training data:" && echo
	@$(BIN)/glm-train generate runs/quickstart --prompt "What is AI?" --prompt "can you write a stack in Python?" --prompt "离银河系最近的大型星系叫什么?"
	@echo "The run is in $$(ls -td runs/quickstart/*/ | head -n 1)"
	@echo "Try next:  $(BIN)/glm-train generate runs/quickstart          chat with it"
	@echo "           $(BIN)/glm-train fit quickstart optim.lr=1e-3      change a setting"
	@echo "           $(BIN)/glm-train preview quickstart                see what was trained, token by token"
	@echo "           $(BIN)/glm-train show quickstart                   see every setting"
	@echo "           $(BIN)/glm-train fit tiny_ner                      named entities, in half a minute"
	@echo "           $(BIN)/glm-train fit tiny_sequence                 topics of questions, in half a minute"

test: $(VENV)/.tests ## install and run the whole test suite
	@$(BIN)/python -m pytest

check: $(VENV)/.tests ## format, lint and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: $(VENV)/.tests ## rewrite the files in the project's format
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

clean: ## remove .venv, demo data and runs
	rm -rf $(VENV) demo runs

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "glm-train needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12 ..." >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.runs: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (a few minutes the first time) ..."
	@$(PIP) -e ".[demo]"
	@touch $@

$(VENV)/.tests: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing into $(VENV) with the test tools (a few minutes the first time) ..."
	@$(PIP) -e ".[demo,test]"
	@touch $@ $(VENV)/.runs
