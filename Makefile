# Everything a new machine needs: python3 (3.11 or newer) with pip, and make.
# uv is bootstrapped into .cache/ (works where the system's Python is externally managed or lacks
# ensurepip), makes .venv and installs into it. Later calls see the stamp and do nothing.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
UV     := .cache/uv/bin/uv
export RAY_USAGE_STATS_ENABLED := 0
export RAY_DEDUP_LOGS := 1

.PHONY: install demo demo-st demo-search test test-slow test-long test-all check format clean help
.DEFAULT_GOAL := help

help:
	@echo "make demo       train teachers, distil students, show what it brought (at most 10 minutes)"
	@echo "make demo-st    the same for speech translation by imitation (at most 12 minutes)"
	@echo "make demo-search  a search over strategies with the demo's teachers (at most 15 minutes)"
	@echo "make test       everything but slow and gpu tests (at most 10 minutes)"
	@echo "make test-slow  worker groups, kills, jobs (about 55 minutes)"
	@echo "make test-long  every job, three nodes, an S3 server, searches stopped and killed (about 55 minutes)"
	@echo "make check      format, lint, strict types, import layers, spelling"
	@echo "make format     apply the formatter"
	@echo "make clean      remove what the demos wrote (runs/, data/: demo, demo_st)"

install: $(STAMP)

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kd_ray needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12 ...")'
	@echo "installing uv into .cache/uv ..."
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-warn-script-location --root-user-action=ignore --target .cache/uv uv

$(STAMP): $(UV) pyproject.toml
	@test -x $(PY) || $(UV) venv --quiet --python "$$(command -v $(PYTHON))" $(VENV)
	@echo "installing kd_ray and what it needs into $(VENV) (torch and Ray are large) ..."
	@$(UV) pip install --quiet --link-mode=hardlink --python $(PY) --editable '.[demo,dev]' || \
	  $(UV) pip install --python $(PY) --editable '.[demo,dev]'
	@touch $@

demo: $(STAMP)
	@$(PY) jobs/recipe.py configs/demo/recipe.yaml

demo-st: $(STAMP)
	@$(PY) jobs/recipe.py configs/demo_st/recipe.yaml

demo-search: $(STAMP)
	@$(PY) jobs/recipe.py configs/demo/search_recipe.yaml

test: $(STAMP)
	$(PY) -m pytest --durations=25 -n 2 --dist loadgroup

test-slow: $(STAMP)
	$(PY) -m pytest --durations=40 -m 'slow and not long and not gpu'

test-long: $(STAMP)
	$(PY) -m pytest -m 'long and not gpu'

check: $(STAMP)
	$(VENV)/bin/ruff format --check kd_ray jobs tests
	$(VENV)/bin/ruff check kd_ray jobs tests
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/codespell kd_ray jobs tests configs docs README.md

format: $(STAMP)
	$(VENV)/bin/ruff format kd_ray jobs tests
	$(VENV)/bin/ruff check --fix kd_ray jobs tests

clean:
	rm -rf runs/demo data/demo runs/demo_st data/demo_st
