# `make app` and `make test` set themselves up: they make .venv and install the pinned requirements into it when these change.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# PyPI's Linux build of torch brings gigabytes of CUDA; where its CPU index can be reached, the CPU build is taken instead.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: app test lint bench demo clean

app: $(VENV)/.installed
	$(BIN)/grace app $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .

bench: $(VENV)/.installed
	$(BIN)/grace bench encode

demo: $(VENV)/.installed
	$(BIN)/grace demo all

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or later is needed, {sys.executable} is {v[0]}.{v[1]}; set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	@if [ "$$(uname -s)" = Linux ] && curl -fsIL --max-time 5 -o /dev/null $(TORCH_INDEX)/ 2>/dev/null; then \
		echo "installing the CPU build of torch (for CUDA: make TORCH_INDEX= app)"; \
		$(BIN)/python -m pip install --quiet --index-url $(TORCH_INDEX) "$$(grep '^torch==' requirements.txt)"; fi

$(VENV)/.installed: $(BIN)/python requirements.txt constraints.txt pyproject.toml
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	@touch $@

clean:
	rm -rf $(VENV)
