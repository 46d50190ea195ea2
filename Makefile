# Everything a newcomer needs is here; `make` alone lists it. Only python3 (3.11 or newer) and make are needed.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
PYTEST_ARGS ?= -n 2

.DEFAULT_GOAL := help
.PHONY: help install demo up down status logs slurm slurm-down test test-slurm chaos fuzz bench lint format requirements messages

help: ## list these targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## set everything up in .venv/

$(STAMP): requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; set PYTHON=python3.x")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

demo: install ## start the portal and walk a real training job through it, from estimate to charge
	$(BIN)/python -m portal up --detach
	$(BIN)/python -m examples.first_job

up: install ## start the portal on this machine and show its log; Ctrl-C stops it
	$(BIN)/python -m portal up

down: install ## stop the portal; running jobs go on and are found again by the next start
	$(BIN)/python -m portal down

status: install ## what runs, and where
	$(BIN)/python -m portal status

logs: install ## follow the log of a portal that runs in the background
	$(BIN)/python -m portal logs -f

slurm: install ## the portal on a real Slurm of its own; as root, with Debian's packages (docs/admin/slurm.md)
	$(BIN)/python -m tests.integration.slurm.portal up

slurm-down: install ## stop and remove the portal and the Slurm of `make slurm`
	$(BIN)/python -m tests.integration.slurm.portal down

test: install ## all tests but those on a real Slurm, on a PostgreSQL and a Valkey of their own
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m "not slurm"

test-slurm: install ## the tests that need a real Slurm; as root, with Debian's packages (docs/admin/slurm.md)
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m slurm tests/backends tests/integration tests/chaos

chaos: install ## kill parts of a portal and of its real Slurm at random: KILLS=300 JOBS=500 SEED=2026 make chaos
	$(BIN)/python -m tests.chaos

fuzz: install ## ask a running portal whatever its OpenAPI document allows, and what not: REQUESTS=20000 SEED=1 make fuzz
	$(BIN)/python -m tests.fuzz

bench: install ## measure beside baselines of the same run; ARGS="ledger race" for some (docs/benchmarks.md)
	$(BIN)/python -m tests.benchmarks $(ARGS)

lint: install ## style, types, architecture, migrations, translations: the same checks as in CI
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	DJANGO_SETTINGS_MODULE=tests.typing_settings $(BIN)/python -W ignore::RuntimeWarning manage.py makemigrations --check --dry-run

format: install ## tidy the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

requirements: install ## lock the dependencies of pyproject.toml again
	$(BIN)/uv pip compile pyproject.toml --generate-hashes --universal --python-version 3.11 --no-annotate --quiet -o requirements/portal.txt
	$(BIN)/uv pip compile pyproject.toml --extra dev --generate-hashes --universal --python-version 3.11 --no-annotate --quiet -o requirements/dev.txt

messages: install ## collect and compile translations
	DJANGO_SETTINGS_MODULE=tests.typing_settings $(BIN)/python manage.py makemessages --locale zh_Hans --no-wrap --no-obsolete --add-location file --ignore .venv --ignore .portal --ignore tests --ignore examples
	DJANGO_SETTINGS_MODULE=tests.typing_settings $(BIN)/python manage.py compilemessages --locale zh_Hans --ignore .venv --ignore .portal
