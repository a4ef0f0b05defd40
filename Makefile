PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help venv lint test acceptance clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(INSTALLED) ## make .venv with ollad and everything for development (PYTHON=python3)

$(INSTALLED): setup.cfg pyproject.toml
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

lint: $(INSTALLED) ## style, format and types
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

test: $(INSTALLED) ## unit and wire tests, branch coverage at least 90 %
	$(VENV)/bin/pytest tests/unit tests/wire --cov --cov-branch --cov-fail-under=90

acceptance: $(INSTALLED) ## tests with real SGLang servers, a real Prometheus and real clients
	$(VENV)/bin/pytest tests/system

clean: ## remove .venv and everything that tools left behind
	rm -rf $(VENV) build dist *.egg-info .coverage .coverage.* htmlcov
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find ollad tests -name __pycache__ -type d -prune -exec rm -rf {} +
