# Everything is set up inside this folder: uv in .tools/, Python and the packages in .venv/.
UV_VERSION := 0.13.9
CHECKOV_VERSION := 3.3.30
SAM_CLI_VERSION := 1.170.0
MINISTACK_VERSION := 1.5.33
TOOLS := .tools
UV := $(TOOLS)/bin/uv
VENV := .venv
BIN := $(VENV)/bin
COMPILE := $(UV) pip compile --quiet --python 3.13 --generate-hashes --no-header --no-annotate

# What the functions are built for: this machine's own processor, for tests and for the local stack.
# Give the stack's when building for a deployment.
ARCHITECTURE ?= $(if $(filter arm64 aarch64,$(shell uname -m)),arm64,x86_64)

export SAM_CLI_TELEMETRY := 0

# Tens of processes import the same packages: their byte code is kept, whatever the environment says.
unexport PYTHONDONTWRITEBYTECODE
# Another Python's modules are none of ours.
unexport PYTHONHOME PYTHONPATH PYTHONSTARTUP

# Where the home directory takes nothing, what uv downloads is kept in this folder.
ifeq ($(shell mkdir -p "$${UV_CACHE_DIR:-$${XDG_CACHE_HOME:-$${HOME:-/dev/null}/.cache}/uv}" 2>/dev/null && echo yes),)
export UV_CACHE_DIR := $(CURDIR)/$(TOOLS)/cache
endif

# Node's migration tools and job queues, as customers use them.
CUSTOMER_TOOLS := $(TOOLS)/customers

.PHONY: setup customer-tools bench bench-fleet cost-docs state-machines event-schemas fault-docs fault-table lock lint lint-types lint-risks lint-style lint-secrets lint-template lint-rules lint-state-machines collect-tests test test-postgresql-versions test-mysql build validate check-stack-name deploy demo up down test-stack

$(UV):
	python3 -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(VENV)/.installed: $(UV) requirements.txt pyproject.toml cli/sam
	$(UV) venv --quiet --allow-existing --python 3.13 $(VENV)
	$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	ln -sf ../../cli/sam $(BIN)/sam
	touch $@

setup: $(VENV)/.installed ## create the environment

$(CUSTOMER_TOOLS)/.installed: tests/customers/package.json tests/customers/package-lock.json
	mkdir -p $(CUSTOMER_TOOLS)
	cp $^ $(CUSTOMER_TOOLS)
	npm ci --prefix $(CUSTOMER_TOOLS) --silent --no-audit --no-fund --ignore-scripts
	touch $@

customer-tools: $(CUSTOMER_TOOLS)/.installed ## install what tests/customers runs; needs npm

LINTERS = lint-types lint-rules lint-template lint-risks lint-style lint-secrets lint-state-machines
# Side by side, since each uses one core; all findings are shown, each linter's in one piece.
SIDE_BY_SIDE = $(MAKE) --no-print-directory --jobs=2 --keep-going --output-sync=target

lint: $(VENV)/.installed ## check style, types strictly, risky code, the template and the state machines, and look for secrets
	@$(SIDE_BY_SIDE) $(LINTERS)

lint-types: $(VENV)/.installed
	$(BIN)/mypy

lint-risks: $(VENV)/.installed
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive bench cli docs functions layers
# Tests assert, hold made-up passwords and start programs: findings of low severity.
	$(BIN)/bandit --quiet --configfile pyproject.toml --severity-level medium --recursive tests

lint-style: $(VENV)/.installed
	$(BIN)/ruff format --check --quiet
	$(BIN)/ruff check --quiet

lint-secrets: $(VENV)/.installed
	$(BIN)/kingfisher scan --config kingfisher.yaml --no-update-check --redact --quiet .

lint-template: $(VENV)/.installed
	$(BIN)/cfn-lint --template template.yaml

CHECKOV = $(UV) tool run $$offline --quiet --python $(BIN)/python --from checkov==$(CHECKOV_VERSION)
# What uv has kept needs no network, nor does checkov.
lint-rules: $(VENV)/.installed
	@offline=--offline; $(CHECKOV) python -I -c '' 2>/dev/null || offline=; \
		$(BIN)/python docs/check_waivers.py checkov_waivers.toml template.yaml -- $(CHECKOV) checkov

# Numbers such as 2 stand for 2.0: JSON has one kind of number.
lint-state-machines: $(VENV)/.installed
	@for machine in state_machines/*.asl.json; do \
		$(BIN)/statelint --ignore=FLOAT $$machine || { echo "in $$machine"; exit 1; }; done

# Imports every test once, which stores it compiled, where each of the processes would compile it.
collect-tests: $(VENV)/.installed
	@$(BIN)/pytest --collect-only --quiet >/dev/null || $(BIN)/pytest --collect-only --quiet

# More processes than CI has cores: many tests wait for containers and servers, and compute nothing.
test: $(VENV)/.installed ## run the linters and every test
	@$(SIDE_BY_SIDE) $(LINTERS) collect-tests
	$(BIN)/pytest --numprocesses 4 --dist worksteal

test-postgresql-versions: $(VENV)/.installed ## test what tenants may do on PostgreSQL 16 and 17 as well, and bring these
	@versions="$$(.ci/postgresql-versions)" && for programs in $$versions; do \
		echo "PostgreSQL of $$programs" && POSTGRESQL_BIN=$$programs $(BIN)/pytest --quiet \
		tests/unit/test_postgresql_tenants.py tests/unit/test_postgresql_hostile.py \
		tests/unit/test_postgresql_restore.py tests/unit/test_postgresql_repair.py || exit; done

# In quotes: a URL holds what a shell takes for its own. Not shown: it holds a password.
test-mysql: $(VENV)/.installed ## test MySQL's engine, and whole jobs, on MySQL or MariaDB; URL=mysql://admin:password@host:3306/?ssl_ca=ca.pem names a server of yours
	@MYSQL_URL='$(URL)' $(BIN)/pytest --quiet tests/unit/test_mysql_*.py tests/workflow tests/faults -k mysql

lock: $(UV) ## lock the versions that pyproject.toml names
	$(COMPILE) --universal --group development --output-file requirements.txt
	$(COMPILE) --python-platform x86_64-manylinux2014 --constraint requirements.txt --group layer-provisioner --output-file layers/provisioner/requirements.txt
	$(COMPILE) --python-platform x86_64-manylinux2014 --constraint requirements.txt --group layer-postgresql --output-file layers/postgresql/requirements.txt
	$(COMPILE) --python-platform x86_64-manylinux2014 --constraint requirements.txt --group layer-mysql --output-file layers/mysql/requirements.txt
	$(COMPILE) --no-deps --python-platform x86_64-manylinux_2_28 --constraint requirements.txt --group layer-postgresql-programs --output-file layers/postgresql_programs/requirements.txt

build: $(VENV)/.installed ## build functions and layers into .aws-sam/build
	LAMBDA_ARCHITECTURE=$(ARCHITECTURE) $(BIN)/sam build --parameter-overrides Architecture=$(ARCHITECTURE) --cached --cache-dir .aws-sam/cache/$(ARCHITECTURE)

validate: $(VENV)/.installed ## check that SAM takes the template; `make lint` has the linter
	$(BIN)/sam validate

# Before anything is built: what a deployment would only find out half-way.
check-stack-name: $(VENV)/.installed
	@$(BIN)/python -m provision_cli.stack_name production

deploy: ARCHITECTURE = arm64
deploy: check-stack-name build ## build for AWS and deploy; the stack and its parameters stand in samconfig.toml
	$(BIN)/sam deploy --config-env production

state-machines: $(VENV)/.installed ## write anew what follows from the job types: state machines and their flowcharts, the template's part, events, the table of faults
	$(BIN)/python -m provision_cli.job_types
	$(BIN)/python docs/write_fault_table.py

event-schemas: $(VENV)/.installed ## write the JSON Schemas of the events anew
	$(BIN)/python docs/write_event_schemas.py

fault-table: $(VENV)/.installed ## run every test that puts a fault in, and print what was put in where
	$(BIN)/pytest --quiet --numprocesses 2 --dist worksteal -m fault --fault-table=text

fault-docs: $(VENV)/.installed ## write the table of faults anew
	$(BIN)/python docs/write_fault_table.py

bench: build ## report what starts and jobs cost, in calls and as ratios to floors; needs valgrind
	$(BIN)/python -m bench.cold_start
	PYTHONPATH=tests $(BIN)/python -m bench.job_calls
	PYTHONPATH=tests $(BIN)/python -m bench.in_process
	$(BIN)/python -m bench.end_to_end

bench-fleet: $(VENV)/.installed ## report what bursts of up to a million jobs take on AWS by its quotas and prices
	PYTHONPATH=tests $(BIN)/python -m bench.fleet

cost-docs: $(VENV)/.installed ## count a job's calls anew, and write what follows from them into docs/cost.md
	PYTHONPATH=tests $(BIN)/python -m bench.stage_calls
	PYTHONPATH=tests $(BIN)/python -m docs.write_cost_page

demo: $(VENV)/.installed ## provision, fail, remove and restore projects on the local stack, one with its own instance
	$(BIN)/provision demo

up: $(VENV)/.installed ## start the local stack, for containers too where there is a Docker engine
	$(BIN)/provision up --containers

down: $(VENV)/.installed ## stop the local stack
	$(BIN)/provision down

test-stack: $(VENV)/.installed ## test the template as deployed to a local stack of its own
	$(BIN)/pytest tests/stack
