# Two commands do everything on a fresh machine with Python 3.11 or newer and make: `make run` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: run test check browser matrix gpu chaos bench clean

run: $(VENV)/run.stamp  ## the app, at http://127.0.0.1:7860; ARGS="--port 8000" for options
	$(BIN)/python app.py $(ARGS)

test: $(VENV)/dev.stamp  ## the fast suite and real training
	$(BIN)/python -m pytest -m "not browser and not gpu and not matrix" $(ARGS)

browser: $(VENV)/dev.stamp  ## real clicks in headless Chromium (needs a chromium program)
	$(BIN)/python -m pytest -m browser $(ARGS)

matrix: $(VENV)/dev.stamp  ## every way to adapt on the whole base, in 4 and in 8 bit, in float32 and bfloat16
	$(BIN)/python -m pytest -m matrix $(ARGS)

gpu: $(VENV)/dev.stamp  ## what only an NVIDIA GPU can show
	$(BIN)/python -m pytest -m gpu $(ARGS)

chaos: $(VENV)/dev.stamp  ## 300 kills and 100 stops of real processes at random instants; ARGS="--kills 30 --stops 10" for fewer
	$(BIN)/python -m tests.chaos $(ARGS)

check: $(VENV)/dev.stamp  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/dev.stamp  ## ratios measured here; see benchmarks/RESULTS.md
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

$(VENV)/run.stamp: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/dev.stamp: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $(VENV)/run.stamp $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
