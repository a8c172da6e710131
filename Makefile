# `make demo` runs the whole job on the demo cohort, `make test` every check, and `make docs` builds the site. Each
# sets up .venv first.
PYTHON ?= python3
CORES ?= all
MACHINE := import platform as p, sys; print(sys.platform, p.machine(), *sys.version_info[:2])
LOCKED_MACHINE := linux x86_64 3 11
CONFIGS := config.yaml $(wildcard examples/*.yaml)

export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: demo docs dry-runs lint lock test
.DELETE_ON_ERROR:

demo: .venv/.demo demo/participants.tsv
	atlasmith run demo results --config config.yaml --cores $(CORES)
	atlasmith demo-grade --config config.yaml

test: .venv/.dev lint dry-runs
	OMP_NUM_THREADS=1 pytest --numprocesses auto --dist loadfile

lint: .venv/.dev demo/participants.tsv
	ruff check .
	ruff format --check .
	mypy
	snakefmt --line-length 110 --check Snakefile src/atlasmith/workflow
	snakemake --lint

# A cohort that isn't on this machine is skipped; the tests run every config dry on a cohort of their own.
dry-runs: .venv/.dev demo/participants.tsv
	@for config in $(CONFIGS); do \
	    bids=$$(python -c "import yaml; print(yaml.safe_load(open('$$config'))['cohort']['bids'])") || exit 1; \
	    if [ -e "$$bids/participants.tsv" ]; then \
	        echo "dry run of $$config"; \
	        snakemake --dry-run --quiet --configfile "$$config" || exit 1; \
	    else \
	        echo "dry run of $$config skipped: no cohort at $$bids"; \
	    fi; \
	done

# Fills in the generated parts of the pages, and builds the site in build/docs.
docs: .venv/.dev
	python docs/generate.py
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet
	@echo "the site: build/docs/index.html"

demo/participants.tsv: | .venv/.demo
	atlasmith demo --out demo

# The stamps are newer than pyproject.toml when everything in it is installed.
.venv/.demo: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --editable '.[demo]'
	touch $@

# The versions of requirements.lock where it is for this machine, else the newest within the bounds.
.venv/.dev: pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv
ifeq ($(shell $(PYTHON) -c "$(MACHINE)"),$(LOCKED_MACHINE))
	.venv/bin/pip install --quiet --require-hashes --requirement requirements.lock \
	    && .venv/bin/pip install --quiet --no-deps --no-build-isolation --editable . \
	    || { echo "requirements.lock can't be installed from this index (its torch is the CPU build)"; \
	        .venv/bin/pip install --quiet --editable '.[dev]'; }
else
	.venv/bin/pip install --quiet --editable '.[dev]'
endif
	touch $@ .venv/.demo

# Write requirements.lock anew: the newest versions within the bounds of pyproject.toml, with their hashes.
lock:
	$(PYTHON) -m venv .venv/lock
	.venv/lock/bin/pip install --quiet uv
	.venv/lock/bin/uv pip compile pyproject.toml --extra dev --python-version 3.11 --generate-hashes --upgrade \
	    --no-annotate --quiet --custom-compile-command "make lock" --output-file requirements.lock \
	    $(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS) --no-emit-find-links,--torch-backend cpu)
