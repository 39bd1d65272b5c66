# Each target does one thing; all work in .venv and make it first if need be.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint bench docs clean

demo: $(READY)            ## the main job on real input: three questions, three ways
	$(BIN)/python -m benchmarks.demo

test: $(READY) lint       ## all tests, the starter pair included
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)           ## speed, side by side in one run; figures and picture go to build/
	mkdir -p build
	$(BIN)/python -m benchmarks.speed --out build/speed-bfloat16.json --dtype bfloat16
	$(BIN)/python -m benchmarks.speed --out build/speed-float32.json --dtype float32
	$(BIN)/python -m benchmarks.plot build/speed-bfloat16.json build/speed-float32.json --out build/speed.png
	$(BIN)/python -m benchmarks.scaling

docs: $(READY)            ## regenerate what is generated from the code
	$(BIN)/python -m benchmarks.schema

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV)
