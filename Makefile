# Each target does one thing; all work in .venv and make it first if need be.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint bench wheels readme docs clean

demo: $(READY)            ## the main job on real input: three questions, three ways
	$(BIN)/python -m scripts.demo

test: $(READY) lint       ## all tests, the starter pair included; the frameworks' last, without sockets
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto tests/unit
	$(BIN)/python -m pytest tests/browser tests/real
	cd integrations/langchain && OMP_NUM_THREADS=1 $(CURDIR)/$(BIN)/python -m pytest -n auto tests/unit_tests
	cd integrations/langchain && $(CURDIR)/$(BIN)/python -m pytest tests/integration_tests tests/peers
	cd integrations/llama_index && OMP_NUM_THREADS=1 $(CURDIR)/$(BIN)/python -m pytest -n auto tests/unit_tests tests/conformance
	cd integrations/llama_index && $(CURDIR)/$(BIN)/python -m pytest tests/integration_tests

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
	$(BIN)/python -m benchmarks.integrations

wheels: $(READY)          ## build all wheels; run each integration's README in an environment with that wheel alone, or with its neighbours
	rm -rf build/wheels && mkdir -p build
	$(BIN)/python -m pip wheel --quiet --no-deps -w build/wheels . ./integrations/langchain ./integrations/llama_index
	$(MAKE) readme OF=langchain WITH="'langchain-nudging[starter]'"
	$(MAKE) readme OF=llama_index WITH="'llama-index-llms-nudging[starter]' llama-index-llms-ollama"
	build/clean/bin/python -c "import llama_index.llms.ollama, llama_index.llms.nudging"

readme:
	rm -rf build/clean
	$(PYTHON) -m venv build/clean
	build/clean/bin/python -m pip install --quiet -c constraints.txt --find-links build/wheels $(WITH)
	sed -n '/^```python/,/^```/p' integrations/$(OF)/README.md | grep -v '^```' > build/readme.py
	cd build && clean/bin/python readme.py

docs: $(READY)            ## the documentation as a site, in build/site; regenerates what is generated from the code
	$(BIN)/python -m scripts.schema
	PATH="$(CURDIR)/$(BIN):$$PATH" NO_MKDOCS_2_WARNING=1 mkdocs build --strict
	@echo "build/site/index.html"

$(READY): pyproject.toml integrations/langchain/pyproject.toml integrations/llama_index/pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]' -e 'integrations/langchain[test]' -e 'integrations/llama_index[test]'
	touch $@

clean:
	rm -rf $(VENV)
