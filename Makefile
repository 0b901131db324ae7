# One virtual environment, .venv, made once and reused; everything that the demo makes is under build/.

# The newest Python that sepline runs on; `make PYTHON=...` names another.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2> /dev/null \
	&& echo $$python && break; done)
BIN := .venv/bin

.PHONY: demo demo-full retrain-demo test test-engines faults mutants bench lint format clean
.DEFAULT_GOAL := test

.venv/installed: setup.py constraints.txt
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11, 3.12 or 3.13 with venv is here; install one" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: .venv/installed
	$(BIN)/sepline demo

demo-full: .venv/installed
	$(BIN)/sepline demo --full

retrain-demo: .venv/installed
	$(BIN)/sepline demo --retrain

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Beam's job server, for where Beam can't download it: see docs/running-at-scale.md.
build/flink/job-server.jar build/spark/job-server.jar: build/%/job-server.jar: runner_configs/job_server.xml
	mvn --batch-mode --quiet --strict-checksums --file $< --activate-profiles $* package
	touch $@

test: lint
	$(BIN)/python -m pytest -m 'not engines' --numprocesses 2 --dist worksteal

test-engines: .venv/installed
	$(BIN)/python -m pytest -m engines

# The short form of the campaigns in docs/reliability.md: about ten minutes.
faults: .venv/installed
	$(BIN)/python benchmarks/fuzz.py --minutes 1
	$(BIN)/python benchmarks/faults.py kill --cases 12 --folder build/faults/short
	$(BIN)/python benchmarks/faults.py fail --cases 20 --folder build/faults/short
	$(BIN)/python benchmarks/damage.py --cases 50 --table build/faults/short/damage.json \
		build/faults/short/kill-1/whole/score/out build/faults/short/kill-1/data/records \
		build/faults/short/kill-1/data/run/bundle
	$(BIN)/python benchmarks/two_jobs.py --place locks --place no-locks --rounds 3 --folder build/faults/short

# docs/mutation-testing.md has its latest figures.
mutants: .venv/installed
	$(BIN)/python benchmarks/mutants.py

# What sepline is compared with; PyTorch comes with CUDA's libraries, which it needs to be loaded: 5 GB on disk.
build/bench/venv/installed: benchmarks/requirements.txt
	$(PYTHON) -m venv build/bench/venv
	build/bench/venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement $<
	touch $@

# Hours on two cores; benchmarks/README.md has a short form, and the latest figures.
bench: .venv/installed build/bench/venv/installed
	$(BIN)/python benchmarks/peers.py

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build *.egg-info
