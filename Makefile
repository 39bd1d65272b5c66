# Each target does one thing; all work in .venv and make it first if need be.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-fast lint bench wheels readme docs clean

demo: $(READY)            ## the main job on real input: three questions, three ways
	$(BIN)/python -m scripts.demo

# Runs a stage: its number, its name, its command. Says what runs, and at the end how long it took.
define stage
@echo "[$(1)] $(2) …"; begun=$$(date +%s); ( $(3) ); code=$$?; \
 if [ $$code = 0 ]; then said=passed; else said=FAILED; fi; \
 echo "[$(1)] $(2): $$said after $$(( $$(date +%s) - begun )) s"; exit $$code
endef

# Several processes with one thread each are faster than one process with several threads: the models here are small.
PYTEST := OMP_NUM_THREADS=1 $(CURDIR)/$(BIN)/python -m pytest -q -n auto --dist worksteal
RUFF_AND_MYPY := $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
FAST := -m "not slow"
CORE := $(PYTEST) tests --ignore tests/real --ignore tests/browser
LANGCHAIN := cd integrations/langchain && $(PYTEST) tests/unit_tests
LLAMA_INDEX := cd integrations/llama_index && $(PYTEST) tests/unit_tests tests/conformance

test: $(READY)            ## all tests, the starter pair included
	$(call stage,1/8,style and types,$(RUFF_AND_MYPY))
	$(call stage,2/8,the core on tiny and scripted models,$(CORE))
	$(call stage,3/8,LangChain on tiny and scripted models,$(LANGCHAIN))
	$(call stage,4/8,LlamaIndex on tiny and scripted models,$(LLAMA_INDEX))
	$(call stage,5/8,the HTML page in a browser,$(BIN)/python -m pytest -q tests/browser)
	$(call stage,6/8,the starter pair,$(PYTEST) tests/real)
	$(call stage,7/8,LangChain on the starter pair,cd integrations/langchain && $(PYTEST) tests/integration_tests tests/peers)
	$(call stage,8/8,LlamaIndex on the starter pair,cd integrations/llama_index && $(PYTEST) tests/integration_tests)

test-fast: $(READY)       ## the tests that need no weights, but for the slowest; of the random cases a tenth
	$(call stage,1/4,style and types,$(RUFF_AND_MYPY))
	$(call stage,2/4,the core on tiny and scripted models,NUDGING_TESTS=sample $(CORE) $(FAST))
	$(call stage,3/4,LangChain on tiny and scripted models,$(LANGCHAIN) $(FAST))
	$(call stage,4/4,LlamaIndex on tiny and scripted models,$(LLAMA_INDEX) $(FAST))

lint: $(READY)            ## style and types
	$(RUFF_AND_MYPY)

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

# --no-compile: Python compiles what is imported when it is; compiling all of torch and transformers takes longer than the rest.
$(READY): pyproject.toml integrations/langchain/pyproject.toml integrations/llama_index/pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e '.[dev]' -e 'integrations/langchain[test]' -e 'integrations/llama_index[test]'
	touch $@

clean:
	rm -rf $(VENV)
