# `make demo` runs the whole job on the demo cohort, `make test` every check, and `make docs` builds the site. Each
# sets up .venv first.
PYTHON ?= python3
CORES ?= all
CONFIGS := config.yaml $(wildcard examples/*.yaml)

export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: demo docs test lint dry-runs
.DELETE_ON_ERROR:

demo: .venv/.demo demo/participants.tsv
	snakemake --cores $(CORES)
	atlasmith demo-grade --config config.yaml

test: .venv/.dev lint dry-runs
	OMP_NUM_THREADS=1 pytest --numprocesses auto --dist loadfile

lint: .venv/.dev demo/participants.tsv
	ruff check .
	ruff format --check .
	mypy
	snakefmt --line-length 110 --check Snakefile workflow
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

.venv/.dev: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --editable '.[dev]'
	touch $@ .venv/.demo
