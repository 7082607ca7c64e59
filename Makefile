# Each target does all of its own set-up, in .venv; the second run is quick.
ifndef PYTHON
PYTHON := $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$python" && break; done)
endif
VENV := .venv
PEERS := .venv-peers
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: test test-pythons pythons test-asyncio sanitize demo example check bench peers faults e2e clean
.NOTPARALLEL:

# Two tests at a time (tests/conftest.py says which), since most of them wait. PYTEST_ARGS="-n 0": one at a time.
test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

# What lies closest to the interpreter, on every other supported version that is on this machine.
OTHER_PYTHONS := 3.12 3.13
CLOSEST := $(addprefix tests/,accounts activation asyncio_delivery asyncio_loops asyncio_steps carriers cython_tasks executors label web)
test-pythons:
	@for version in $(OTHER_PYTHONS); do \
		python=$$(tests/support/interpreter "$$version") || { echo "Python $$version is not here: not tested."; continue; }; \
		$(MAKE) test PYTHON="$$python" VENV=".venv-$$version" PYTEST_ARGS="$(CLOSEST) $(PYTEST_ARGS)" || exit; \
	done

# Their virtual environments alone. MADE=.fast: no more than their accelerators.
MADE := .dev
pythons:
	@for version in $(OTHER_PYTHONS); do \
		python=$$(tests/support/interpreter "$$version") || continue; \
		$(MAKE) ".venv-$$version/$(MADE)" PYTHON="$$python" VENV=".venv-$$version" || exit; \
	done

demo: $(VENV)/.demo
	$(BIN)/taskwatt demo

EXAMPLE := blocked_loop
example: $(VENV)/.dev
	$(BIN)/python examples/$(EXAMPLE)/run.py

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: $(VENV)/.dev $(PEERS)/.installed
	BENCH_PEERS=$(PEERS) $(BIN)/python -m benchmarks $(BENCH_ARGS)

# Other tools of this kind, to be measured beside this one; what cannot be installed is said in the table.
peers: $(PEERS)/.installed

# CPython's own tests of asyncio, without the agent and with it; TEST_ASYNCIO_ARGS=--full for the long ones too.
test-asyncio: $(VENV)/.dev
	$(BIN)/python -m tests.cpython $(TEST_ASYNCIO_ARGS)

# The accelerator's tests once more, with the C part built to watch its own memory. Needs gcc and its libasan.
SANITIZED := build/sanitized
sanitize: $(VENV)/.dev
	rm -rf $(SANITIZED)
	CFLAGS="-g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined" \
	LDFLAGS="-fsanitize=address,undefined" $(INSTALL) --no-deps --target $(SANITIZED) ./agent/taskwatt_fast
	rm -rf agent/taskwatt_fast/build agent/taskwatt_fast/*.egg-info
	PYTHONPATH=$(SANITIZED) PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 \
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libstdc++.so)" \
	$(BIN)/python -m pytest tests/carriers tests/accounts tests/clocks/test_procfs.py tests/asyncio_stalls/test_dozing.py $(PYTEST_ARGS)

faults: $(VENV)/.dev
	$(BIN)/python -m tests.faults $(FAULTS_ARGS)

e2e: $(VENV)/.dev
	$(BIN)/python -m tests.e2e.programs
	$(BIN)/python -m pytest -m e2e tests/e2e $(PYTEST_ARGS)

clean:
	rm -rf $(VENV) $(addprefix .venv-,$(OTHER_PYTHONS)) $(PEERS) build dist agent/taskwatt_fast/build agent/taskwatt_fast/*.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.dev: $(VENV)/.python $(VENV)/.fast pyproject.toml constraints.txt
	$(INSTALL) -e '.[dev]'
	touch $@ $(VENV)/.demo

# The accelerator in C. Where it cannot be built everything else works without it; either way one line says so.
$(VENV)/.fast: $(VENV)/.python $(wildcard agent/taskwatt_fast/*.[ch] agent/taskwatt_fast/attempts_in_c/*.[ch] agent/taskwatt_fast/*.py*)
	@$(subst --quiet,--verbose,$(INSTALL)) --force-reinstall ./agent/taskwatt_fast >$(VENV)/fast.log 2>&1 || true
	@rm -rf agent/taskwatt_fast/build agent/taskwatt_fast/*.egg-info
	@cd $(VENV) && bin/python -c 'import taskwatt_fast._attempts, taskwatt_fast._carrier' >>fast.log 2>&1 \
		&& echo "The accelerator is built." \
		|| echo "The accelerator is not built ($(VENV)/fast.log says why): everything is measured in pure Python."
	@touch $@

$(PEERS)/.installed: benchmarks/peers.py constraints.txt | $(VENV)/.dev
	BENCH_PEERS=$(PEERS) $(BIN)/python -m benchmarks.peers
	touch $@

$(VENV)/.demo: $(VENV)/.python $(VENV)/.fast pyproject.toml constraints.txt
	$(INSTALL) -e '.[demo]'
	touch $@

$(VENV)/.python:
	@test -n "$(PYTHON)" || { echo "taskwatt needs Python 3.11 or newer; name one with PYTHON=..." >&2; exit 1; }
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "taskwatt needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	touch $@
