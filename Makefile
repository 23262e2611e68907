# diffexplain: `make help` says what can be made.
# VENV=DIR uses (or makes) another environment; ARGS='…' is handed to the command; WORKERS=N runs the tests.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
ARGS ?=
BIN := $(abspath $(VENV))/bin
STAMP := $(VENV)/.diffexplain-installed
PIP := pip install -q --disable-pip-version-check --no-compile

.DEFAULT_GOAL := help
.PHONY: demo test lint docs world wheel-test browser help

# The stamp names the checkout that is installed; another checkout's makes ours stale.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

$(STAMP): pyproject.toml constraints.txt
	@echo "installing diffexplain and all its extras into $(VENV) (several GB, some minutes) …"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/$(PIP) -c constraints.txt -e '.[all]'
	@echo $(CURDIR) > $@

demo: $(STAMP)  ## explain pocket:hired on 16 avatars, beside the truth; report in runs/demo
	$(BIN)/diffexplain demo $(ARGS)

# Big tensors are kept for the next ones, which saves a fifth of the time. Files go to the workers in the order of
# their names, which brings the long ones first, so that no worker waits for another at the end.
test: $(STAMP)  ## all tests, one thread a worker
	MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=4000000000 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(STAMP)  ## ruff, mypy, the floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(STAMP)  ## the documentation site, in build/site; a link to nowhere ends it
	$(BIN)/python docs/website.py

world: $(STAMP)  ## train the pocket models again (hours)
	$(BIN)/python -m training.make_world $(ARGS)

wheel-test: $(STAMP)  ## build the wheel, install it with its dependencies elsewhere, explain with it there
	dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && \
	$(BIN)/python -m build --wheel --no-isolation --outdir "$$dir" . && \
	$(PYTHON) -m venv "$$dir/venv" && \
	"$$dir/venv/bin/"$(PIP) -c constraints.txt "$$dir"/*.whl && \
	cd "$$dir" && export PATH="$$dir/venv/bin:$$PATH" && \
	diffexplain --help && \
	python -c "import pathlib, diffexplain.demonstration as d; d.portraits(pathlib.Path('portraits'))" && \
	diffexplain explain pocket:hired --images portraits --target hired --direction add --budget 32 --out run && \
	test -s run/result.json && test -s run/report.html

browser:  ## Debian's chromium for the browser tests (as root, when it is missing)
	@command -v chromium || { test "$$(id -u)" = 0 && \
		apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium; }

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' Makefile | expand -t 12
