# Two commands on a fresh machine with Python 3.11 and make: `make demo` and `make test`.
PYTHON ?= python3
FRAMES ?=
BAG ?=
DEMO_ARGS = $(if $(FRAMES),--frames $(FRAMES)) $(if $(BAG),--bag $(BAG))

.PHONY: demo test lint clean help
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*##/ -/'

.venv/installed: requirements.txt requirements-dev.txt pyproject.toml setup.py
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "requirements.txt is pinned for Python 3.11; this is " + sys.version.split()[0] + ". Run: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	@echo "installing the pinned requirements into .venv (about 2.5 GB, a few minutes)"
	.venv/bin/pip install --disable-pip-version-check --progress-bar off -r requirements-dev.txt
	.venv/bin/pip install --disable-pip-version-check --no-deps --editable .
	touch $@

demo: .venv/installed ## replay a recorded scene through the ROS 2 nodes and write a report (FRAMES=DIR or BAG=FILE for your own)
	.venv/bin/perception demo $(DEMO_ARGS)

test: .venv/installed lint ## all tests
	.venv/bin/pytest -n 2 --dist loadfile --max-worker-restart 0  # a worker that crashes: its test is named; restarted, pytest hangs

lint: .venv/installed ## style, types and import rules
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

clean: ## remove the environment and what runs wrote
	rm -rf .venv build runs *.egg-info src/*.egg-info
