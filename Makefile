# On a fresh machine two commands are enough: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
export PYTHONDONTWRITEBYTECODE :=  # or each process of a test compiles every module again
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test test-ui lint check slow first-hour gpu faults machines golden golden-keys schema docs lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-11s %s\n", $$1, $$2}'

demo: $(STAMP)  ## run the whole pipeline on a small model, on this machine's CPU
	$(BIN)/sft-dpo run deployments/configs/practice.yaml

test: $(STAMP)  ## run all fast CPU tests, in three processes; warnings are errors
	$(BIN)/python -m pytest -n 3 --dist loadfile -m 'not gpu and not slow and not ui'

test-ui: $(STAMP)  ## test run form, artifacts, report and a cancelled run in Debian's chromium; skipped without it
	$(BIN)/python -m pytest -q -rs -m ui $$(grep -rl --include="test_*.py" "mark\.ui" tests)

lint: $(STAMP)  ## check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint  ## the same, and the rules of the architecture, which `make test` has as well
	$(BIN)/python -m pytest -q tests/architecture

slow: $(STAMP)  ## run the long tests: servers, crashes, whole runs
	$(BIN)/python -m pytest -m 'slow and not gpu'

first-hour: $(STAMP)  ## install the wheel in an empty home and do there what a new user does
	$(BIN)/python -m pytest -q -m slow tests/test_wheel.py -k first_hour

gpu: $(STAMP)  ## compare bfloat16 on a CUDA device with fp32; skipped without one
	$(BIN)/python -m pytest -q -s -m gpu tests/gpu

faults: $(STAMP)  ## inject faults: kills, full disks, torn files, simulated histories; print what was lost
	$(BIN)/python -m tests.faults

machines: $(STAMP)  ## run state-machine tests of store, ledger and champion: 2,000 histories of 200 steps; 15 minutes
	$(BIN)/python -m pytest -q --hypothesis-profile=deep tests/alignment/store/test_store_machine.py tests/alignment/rounds/test_line_machine.py

golden: $(STAMP)  ## record the keys of all steps and the loss trajectories again; the diff shows what changed
	$(BIN)/python -m pytest -q --golden tests/golden
	git diff --stat -- tests/golden

golden-keys: $(STAMP)  ## record the keys of all steps again; the diff shows what changed
	$(BIN)/python -m pytest -q --golden tests/golden/test_keys.py
	git diff --stat -- tests/golden

schema: $(STAMP)  ## regenerate docs/*.schema.json, the reference of keys and the table of formats from the classes
	$(BIN)/python -m alignment.config.pipeline docs/config.schema.json
	$(BIN)/python -m alignment.config.reference docs/configuration.md
	$(BIN)/python -m alignment.evaluate.evidence docs/verdict.schema.json
	$(BIN)/python -m alignment.data.formats.table docs/data.md

docs: $(STAMP)  ## build the documentation as a site with search, in build/site; broken links are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "built: build/site; to read it: $(BIN)/python -m http.server --bind 127.0.0.1 --directory build/site"

# torch and its CUDA libraries are left out: another index may serve another build of them.
lock:  ## regenerate docker/requirements.lock with uv: what the image installs, with the hash of each file
	uv pip compile --quiet pyproject.toml --extra train -c constraints.txt --generate-hashes --no-annotate --no-header \
	    --python-version 3.11 --python-platform x86_64-unknown-linux-gnu \
	    | awk '/^[a-z]/ { keep = !/^(torch|triton|nvidia-|cuda-)/ } keep' > docker/requirements.lock

clean:  ## remove the virtual environment and all caches; runs and artifacts stay
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find alignment tasks flows deployments tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last, so an interrupted install is repeated.
# torch is installed first, alone and pinned: pip then prefers a CPU build where it can find one.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "Python 3.11 or newer is needed: sudo apt install python3, or make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || { \
	    echo "Python's venv module is missing: sudo apt install python3-venv" >&2; exit 1; }
	@test -e $@ || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
