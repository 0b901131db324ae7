# One virtual environment, .venv, made once and reused; everything the demo makes lies under build/.

PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: demo demo-full retrain-demo test lint format clean
.DEFAULT_GOAL := test

.venv/installed: setup.py constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
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
	$(BIN)/python -m pytest

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build *.egg-info
