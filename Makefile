# Everything is set up inside this folder: uv in .tools/, Python and the packages in .venv/.
UV_VERSION := 0.13.9
TOOLS := .tools
UV := $(TOOLS)/bin/uv
VENV := .venv
BIN := $(VENV)/bin
COMPILE := $(UV) pip compile --quiet --python 3.13 --generate-hashes --no-header --no-annotate

export SAM_CLI_TELEMETRY := 0

.PHONY: setup lock

$(UV):
	python3 -m venv $(TOOLS)
	$(TOOLS)/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(VENV)/.installed: $(UV) requirements.txt pyproject.toml
	$(UV) venv --quiet --allow-existing --python 3.13 $(VENV)
	$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

setup: $(VENV)/.installed ## create the environment

lock: $(UV) ## lock the versions that pyproject.toml names
	$(COMPILE) --universal --group development --output-file requirements.txt
	$(COMPILE) --python-platform x86_64-manylinux2014 --constraint requirements.txt --group layer-provisioner --output-file layers/provisioner/requirements.txt
	$(COMPILE) --python-platform x86_64-manylinux2014 --constraint requirements.txt --group layer-postgresql --output-file layers/postgresql/requirements.txt
