# Each target is one command, shown as it runs. `make help` lists them and what they take.

.DEFAULT_GOAL := help
PYTHON ?= python3
PILLOW ?=
EXTRAS ?=

SETUP := -m workflows.setup.install
VENV_PYTHON := .venv/bin/python
TESSERAE := .venv/bin/tesserae
# Quick tests often wait for processes, so more of them run than a small machine has cores; those of
# one file share what they set up. Slow ones need the machine for themselves.
AT_ONCE := --numprocesses=4 --dist=loadfile --no-loadscope-reorder

# A variable that no target knows is a misspelt one: without this it would change nothing, in silence.
KNOBS := ARGS CERTS CLUSTER DATA EXTRAS GPUS PILLOW PYTHON RUN SIZES SPLIT STORE STUDY TRUNK WORDS WORKERS
unknown := $(filter-out $(KNOBS) -%,$(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name))))
alike = $(foreach knob,$(KNOBS),$(if $(or $(findstring $(1),$(knob)),$(findstring $(knob),$(1))),$(knob)))
$(foreach name,$(unknown),$(error there is no variable $(name)$(addprefix : did you mean ,$(firstword $(call alike,$(name))))? \
  `make help` lists them. Options of the command go into ARGS, e.g. ARGS="--limit 1000"))

where = $(if $(CLUSTER),--cluster "$(CLUSTER)") $(if $(CERTS),--certs "$(CERTS)")
options = $(if $(SPLIT),--split $(SPLIT)) $(if $(SIZES),--sizes $(SIZES)) $(if $(WORKERS),--workers $(WORKERS)) $(where) $(ARGS)

.PHONY: setup
setup: ## Make .venv and install the project in it, with Pillow-SIMD where it can be compiled
	$(PYTHON) $(SETUP) $(if $(EXTRAS),--need $(EXTRAS)) $(if $(PILLOW),--pillow $(PILLOW))

.PHONY: demo
demo: .ready-devise ## From photographs to a verified store, nets and answers; DATA= for your own
	$(TESSERAE) demo $(if $(DATA),--data "$(DATA)") $(ARGS)

.PHONY: prepare
prepare: .store-data .ready ## Decode and resize DATA into STORE; goes on where it was broken off
	$(TESSERAE) prepare "$(DATA)" "$(STORE)" $(options)

.PHONY: verify
verify: .store .ready ## Check every file of STORE
	$(TESSERAE) verify "$(STORE)" $(ARGS)

.PHONY: repair
repair: .store .ready ## Rebuild what is damaged in STORE, and nothing else
	$(TESSERAE) repair "$(STORE)" $(where) $(ARGS)

.PHONY: info
info: .store .ready ## Say what is in STORE
	$(TESSERAE) info "$(STORE)" $(ARGS)

.PHONY: loader
loader: .store .ready-train ## Measure what a loader delivers from STORE, and how well it mixes
	$(TESSERAE) loader "$(STORE)" $(ARGS)

training = $(if $(DATA),--data "$(DATA)") $(if $(RUN),--run "$(RUN)") $(if $(GPUS),--gpus $(GPUS)) $(if $(WORKERS),--workers $(WORKERS)) $(where) $(ARGS)

.PHONY: wgan
wgan: .store .ready-train ## Train a GAN on STORE, made from DATA first if that is given; goes on in RUN
	$(TESSERAE) train wgan "$(STORE)" $(training)

.PHONY: colourise
colourise: .store .ready-train ## Train a network that colours grey pictures, on STORE, as wgan
	$(TESSERAE) train colourise "$(STORE)" $(training)

.PHONY: features
features: .store-trunk .ready-devise ## Run a network, TRUNK, over STORE once, and keep what it makes
	$(TESSERAE) features "$(STORE)" --trunk "$(TRUNK)" $(if $(GPUS),--gpus $(GPUS)) $(if $(WORKERS),--workers $(WORKERS)) $(where) $(ARGS)

.PHONY: devise
devise: .store .ready-devise ## Train DeViSE on STORE: pictures into the space of WORDS; goes on in RUN
	$(TESSERAE) train devise "$(STORE)" $(if $(TRUNK),--trunk "$(TRUNK)") $(if $(WORDS),--word-vectors "$(WORDS)") $(training)

.PHONY: search
search: .ready-devise ## Serve a page that searches with RUN: words, pictures, both
	$(TESSERAE) search "$(or $(RUN),runs/devise)" --serve $(ARGS)

.PHONY: export
export: .ready-devise ## Write the trunk that RUN has trained as a folder for others to open
	$(TESSERAE) export "$(or $(RUN),runs/devise)" $(ARGS)

.PHONY: words
words: .store .ready-devise ## Say which classes of STORE have vectors in WORDS
	$(TESSERAE) words "$(STORE)" $(if $(WORDS),--word-vectors "$(WORDS)") $(ARGS)

.PHONY: sample-images
sample-images: .ready-train ## Make pictures with a GAN, RUN, in one PNG
	$(TESSERAE) sample-images "$(or $(RUN),runs/wgan)" $(ARGS)

.PHONY: study
study: .study .ready-devise ## Try what papers claim: STUDY=gaussians, digits, or devise on STORE
	$(TESSERAE) study $(STUDY) $(if $(STORE),--store "$(STORE)") $(if $(WORDS),--word-vectors "$(WORDS)") $(ARGS)

.PHONY: report
report: .ready-train ## Show how RUN went and what it makes, on one page
	$(TESSERAE) report "$(or $(RUN),runs/wgan)" $(ARGS)

.PHONY: cluster-up
cluster-up: .ready ## Start a scheduler and workers on this machine, in the background, with TLS
	$(TESSERAE) cluster up $(if $(WORKERS),--workers $(WORKERS)) $(if $(CERTS),--certs "$(CERTS)") $(ARGS)

.PHONY: cluster-status
cluster-status: .ready ## Say what runs of a cluster, what it listens on, and who works
	$(TESSERAE) cluster status $(CLUSTER) $(if $(CERTS),--certs "$(CERTS)") $(ARGS)

.PHONY: cluster-down
cluster-down: .ready ## Stop what cluster-up started
	$(TESSERAE) cluster down $(ARGS)

.PHONY: sample
sample: .ready ## Make a small ImageNet-shaped folder of photographs in DATA (./sample)
	$(TESSERAE) sample "$(or $(DATA),sample)" $(ARGS)

.PHONY: doctor
doctor: .ready ## Say what is active on this machine, and what to do about what is missing
	$(TESSERAE) doctor $(if $(STORE),"$(STORE)") $(ARGS)

.PHONY: bench
bench: .ready ## Measure preparing against the bare floor and against other ways
	$(VENV_PYTHON) benchmarks/prepare.py $(ARGS)

# Hundreds of processes import what the tests do: without compiled files each would compile it anew.
test test-all chaos: export PYTHONDONTWRITEBYTECODE =

.PHONY: test
test: .ready-dev ## Run the quick tests
	$(VENV_PYTHON) -m pytest $(AT_ONCE) $(ARGS)

.PHONY: test-all
test-all: .ready-dev ## Run every test this machine can, with many more examples of each law
	$(VENV_PYTHON) -m pytest $(AT_ONCE) --hypothesis-profile=thorough $(ARGS)
	$(VENV_PYTHON) -m pytest -m "slow or gpu" --hypothesis-profile=thorough $(ARGS)

.PHONY: chaos
chaos: .ready-dev ## Prepare for ten minutes while everything goes wrong, and compare every byte
	$(VENV_PYTHON) -m tests.chaos $(ARGS)

.PHONY: lint
lint: .ready-dev ## Check style, types and the direction of imports
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m mypy
	.venv/bin/lint-imports

.PHONY: docs
docs: .ready-docs ## Build the documentation into site/; a broken link is an error
	$(VENV_PYTHON) -m mkdocs build --strict $(ARGS)

.PHONY: pictures
pictures: .ready-dev ## Make the pictures of the documentation anew; needs Chromium
	$(VENV_PYTHON) docs/screenshots.py $(ARGS)

.PHONY: clean
clean: ## Remove .venv, caches and what the demo made; no store and no data of yours
	rm -rf .venv __pycache__ benchmarks/.env demo site build dist *.egg-info .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find $(wildcard pipeline workflows cluster tests benchmarks examples) -name __pycache__ -prune -exec rm -rf {} +

.PHONY: help
help: ## Show this list
	@echo "make TARGET [KNOB=value ...]"
	@echo
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  DATA      the images: a folder, an archive or a URL, e.g. DATA=/path/to/ILSVRC2012"
	@echo "  STORE     the store: a folder or a URL, e.g. STORE=/fast/imagenet"
	@echo "  SPLIT     train, val, ... (all there are)  SIZES    e.g. SIZES=\"72 224 288\""
	@echo "  WORKERS   processes (one a core)          CLUSTER  local, tls://HOST:8786, ssh:FILE, slurm:FILE"
	@echo "  RUN       folder of a training run        GPUS     ranks with a GPU (all there are, or none)"
	@echo "  TRUNK     a vision model: folder or name    WORDS    file of word vectors"
	@echo "  STUDY     gaussians, digits or devise"
	@echo "  CERTS     certificates for tls://         ARGS     anything else for the command"
	@echo "  PYTHON    makes .venv (python3)           EXTRAS   more for .venv, e.g. train"
	@echo "  PILLOW    auto, simd or stock (auto)"

# --- What the targets stand on ---------------------------------------------------------------------

# 0.2 s when all is there.
.PHONY: .ready .ready-train .ready-devise .ready-dev .ready-docs
.ready:
	@$(PYTHON) $(SETUP) --quiet
.ready-train:
	@$(PYTHON) $(SETUP) --quiet --need train
.ready-devise:
	@$(PYTHON) $(SETUP) --quiet --need train,devise
.ready-dev:
	@$(PYTHON) $(SETUP) --quiet --need dev
.ready-docs:
	@$(PYTHON) $(SETUP) --quiet --need docs

# What a target needs is said at once, all of it, before a minute is spent on .venv.
EXAMPLE_DATA := DATA=/path/to/ILSVRC2012
EXAMPLE_STORE := STORE=/path/to/store
EXAMPLE_TRUNK := TRUNK=/path/to/model
EXAMPLE_STUDY := STUDY=gaussians
needs = $(strip $(foreach name,$(1),$(if $($(name)),,$(name))))
.PHONY: .store .store-data .store-trunk .study
.store:
	@$(call check,STORE)
.store-data:
	@$(call check,DATA STORE)
.store-trunk:
	@$(call check,STORE TRUNK)
.study:
	@$(call check,STUDY)
check = $(if $(call needs,$(1)),$(error $(MAKECMDGOALS) needs $(call needs,$(1)): make $(MAKECMDGOALS) $(foreach name,$(1),$(if $($(name)),$(name)=$($(name)),$(EXAMPLE_$(name))))),:)
