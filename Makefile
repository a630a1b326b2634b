# Each target is one command, shown as it runs. `make help` lists them and their variables.

.DEFAULT_GOAL := help
PYTHON ?= python3
PILLOW ?=
EXTRAS ?=

SETUP := -m workflows.setup.install
VENV_PYTHON := .venv/bin/python
TESSERAE := .venv/bin/tesserae
# Tests often wait for processes, so more quick ones run at once than a small machine has cores; those
# of one file share what they set up. Slow ones start many processes themselves.
AT_ONCE := --numprocesses=3 --dist=loadfile --no-loadscope-reorder
SLOW_AT_ONCE := --numprocesses=2 --dist=loadfile --no-loadscope-reorder
# A law with a thousand examples takes minutes on a busy machine.
THOROUGH := --hypothesis-profile=thorough --timeout=600 -o faulthandler_timeout=580

# A variable that no target knows is a misspelt one: without this it would change nothing, in silence.
KNOBS := ARGS CERTS CLUSTER DATA EXTRAS GPUS PILLOW PYTHON RUN SIZES SPLIT STORE STUDY TRUNK URL WORDS WORKERS
unknown := $(filter-out $(KNOBS) -%,$(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name))))
alike = $(foreach knob,$(KNOBS),$(if $(or $(findstring $(1),$(knob)),$(findstring $(knob),$(1))),$(knob)))
$(foreach name,$(unknown),$(error there is no variable $(name)$(addprefix : did you mean ,$(firstword $(call alike,$(name))))? \
  `make help` lists them. Options of the command go into ARGS, e.g. ARGS="--limit 1000"))

where = $(if $(CLUSTER),--cluster "$(CLUSTER)") $(if $(CERTS),--certs "$(CERTS)")
options = $(if $(SPLIT),--split $(SPLIT)) $(if $(SIZES),--sizes $(SIZES)) $(if $(WORKERS),--workers $(WORKERS)) $(where) $(ARGS)

.PHONY: setup
setup: ## Create .venv and install the project, with Pillow-SIMD where it can be compiled
	$(PYTHON) $(SETUP) $(if $(EXTRAS),--need $(EXTRAS)) $(if $(PILLOW),--pillow $(PILLOW))

.PHONY: demo
demo: .ready-search ## Prepare, verify, train and search a small sample; DATA= uses your images
	$(TESSERAE) demo $(if $(DATA),--data "$(DATA)") $(ARGS)

.PHONY: prepare
prepare: .store-data .ready ## Decode and resize DATA into STORE; resumes an interrupted run
	$(TESSERAE) prepare "$(DATA)" "$(STORE)" $(options)

.PHONY: tune
tune: .images .ready ## Find the fastest workers and threads for DATA on this machine and the disk of STORE
	$(TESSERAE) tune "$(DATA)" $(if $(STORE),"$(STORE)") $(if $(SPLIT),--split $(SPLIT)) $(if $(SIZES),--sizes $(SIZES)) $(ARGS)

.PHONY: verify
verify: .store .ready ## Check every file of STORE
	$(TESSERAE) verify "$(STORE)" $(ARGS)

.PHONY: repair
repair: .store .ready ## Restore the damaged files of STORE
	$(TESSERAE) repair "$(STORE)" $(where) $(ARGS)

.PHONY: info
info: .store .ready ## Show what STORE holds
	$(TESSERAE) info "$(STORE)" $(ARGS)

.PHONY: loader
loader: .store .ready-train ## Benchmark the data loader on STORE
	$(TESSERAE) loader "$(STORE)" $(ARGS)

training = $(if $(DATA),--data "$(DATA)") $(if $(RUN),--run "$(RUN)") $(if $(GPUS),--gpus $(GPUS)) $(if $(WORKERS),--workers $(WORKERS)) $(where) $(ARGS)

.PHONY: wgan
wgan: .store .ready-train ## Train a GAN on STORE, prepared from DATA first if given; resumes RUN
	$(TESSERAE) train wgan "$(STORE)" $(training)

.PHONY: classify
classify: .store .ready-search ## Train an image classifier on STORE, from TRUNK if given; resumes RUN
	$(TESSERAE) train classify "$(STORE)" $(if $(TRUNK),--trunk "$(TRUNK)") $(training)

.PHONY: classify-images
classify-images: .images .ready-search ## Say what the images in DATA are, with the classifier of RUN
	$(TESSERAE) classify "$(or $(RUN),runs/classify)" "$(DATA)" $(ARGS)

.PHONY: upscale
upscale: $(if $(STORE),.store,.images) .ready-train ## Enlarge DATA into the folder upscaled, or STORE to SIZES (288) px, with RUN
	$(TESSERAE) upscale "$(or $(RUN),runs/superres)" $(if $(STORE),--store "$(STORE)" --size $(or $(SIZES),288) $(if $(SPLIT),--split $(SPLIT)) $(if $(GPUS),--gpus $(GPUS)) $(if $(WORKERS),--workers $(WORKERS)) $(where),"$(DATA)" --out upscaled) $(ARGS)

.PHONY: colourise
colourise: .store .ready-train ## Train a colourisation network on STORE; variables as for wgan
	$(TESSERAE) train colourise "$(STORE)" $(training)

.PHONY: superres
superres: .store .ready-train ## Train a network that enlarges images on STORE; variables as for wgan
	$(TESSERAE) train superres "$(STORE)" $(training)

.PHONY: features
features: .store-trunk .ready-search ## Extract features of STORE with the network TRUNK
	$(TESSERAE) features "$(STORE)" --trunk "$(TRUNK)" $(if $(GPUS),--gpus $(GPUS)) $(if $(WORKERS),--workers $(WORKERS)) $(where) $(ARGS)

.PHONY: devise
devise: .store .ready-search ## Train DeViSE on STORE: images to the word vectors in WORDS; resumes RUN
	$(TESSERAE) train devise "$(STORE)" $(if $(TRUNK),--trunk "$(TRUNK)") $(if $(WORDS),--word-vectors "$(WORDS)") $(training)

.PHONY: search
search: .ready-search ## Serve a search page for RUN
	$(TESSERAE) search "$(or $(RUN),runs/devise)" --serve $(ARGS)

.PHONY: export
export: .ready-search ## Export the network that RUN has trained as a model folder or an ONNX file
	$(TESSERAE) export "$(or $(RUN),runs/devise)" $(ARGS)

.PHONY: push
push: .store-url .ready ## Copy STORE, or another folder, to URL, with a manifest; resumes
	$(TESSERAE) push "$(STORE)" "$(URL)" $(ARGS)

.PHONY: pull
pull: .store-url .ready ## Copy what was pushed to URL into the folder STORE, and verify it; resumes
	$(TESSERAE) pull "$(URL)" "$(STORE)" $(ARGS)

.PHONY: words
words: .store .ready-search ## Show which classes of STORE have vectors in WORDS
	$(TESSERAE) words "$(STORE)" $(if $(WORDS),--word-vectors "$(WORDS)") $(ARGS)

.PHONY: sample-images
sample-images: .ready-train ## Generate images with the GAN of RUN, as one PNG
	$(TESSERAE) sample-images "$(or $(RUN),runs/wgan)" $(ARGS)

.PHONY: study
study: .study .ready-search ## Run the study STUDY, such as parallel; `tesserae study --help` lists them
	$(TESSERAE) study $(STUDY) $(if $(DATA),--source "$(DATA)") $(if $(STORE),--store "$(STORE)") $(if $(TRUNK),--trunk "$(TRUNK)") $(if $(WORDS),--word-vectors "$(WORDS)") $(ARGS)

.PHONY: report
report: .ready-train ## Evaluate RUN and write its HTML report; compare RUN with further runs in ARGS
	$(TESSERAE) report "$(or $(RUN),runs/wgan)" $(ARGS)

.PHONY: cluster-up
cluster-up: .ready ## Start a scheduler and workers on this machine, in the background, with TLS
	$(TESSERAE) cluster up $(if $(WORKERS),--workers $(WORKERS)) $(if $(CERTS),--certs "$(CERTS)") $(ARGS)

.PHONY: cluster-status
cluster-status: .ready ## Show the cluster's processes, open ports and workers
	$(TESSERAE) cluster status $(CLUSTER) $(if $(CERTS),--certs "$(CERTS)") $(ARGS)

.PHONY: cluster-down
cluster-down: .ready ## Stop what cluster-up started
	$(TESSERAE) cluster down $(ARGS)

.PHONY: sample
sample: .ready ## Create a small sample data set laid out like ImageNet in DATA (default: sample)
	$(TESSERAE) sample "$(or $(DATA),sample)" $(ARGS)

.PHONY: doctor
doctor: .ready ## Check this machine's installation and resources
	$(TESSERAE) doctor $(if $(STORE),"$(STORE)") $(ARGS)

.PHONY: completion
completion: .ready ## Print a script that completes commands in a shell; ARGS=zsh, fish or tcsh, not bash
	@$(TESSERAE) completion $(or $(ARGS),bash)

.PHONY: wheel
wheel: .ready-release ## Build the wheel and the source distribution into dist/, and check them
	rm -rf build dist
	$(VENV_PYTHON) -m build --outdir dist/built
	PATH="$(CURDIR)/.venv/bin:$$PATH" .venv/bin/auditwheel repair --wheel-dir dist dist/built/*.whl
	mv dist/built/*.tar.gz dist && rm -r dist/built
	$(VENV_PYTHON) -m twine check --strict dist/*
	.venv/bin/check-wheel-contents dist/*.whl

.PHONY: bench
bench: .ready ## Benchmark prepare against a bare loop and against other tools
	$(VENV_PYTHON) benchmarks/prepare.py $(ARGS)

# Hundreds of processes import what the tests do: without compiled files each would compile it anew.
test test-all chaos: export PYTHONDONTWRITEBYTECODE =

.PHONY: test
test: .ready-dev ## Run the quick tests
	$(VENV_PYTHON) -m pytest $(AT_ONCE) $(ARGS)

.PHONY: test-all
test-all: .ready-dev ## Run all tests that this machine can, with many more examples of each law
	$(VENV_PYTHON) -m pytest $(AT_ONCE) $(THOROUGH) $(ARGS)
	$(VENV_PYTHON) -m pytest $(SLOW_AT_ONCE) -m "slow or gpu" $(THOROUGH) $(ARGS)

.PHONY: chaos
chaos: .ready-dev ## Prepare under injected faults for ten minutes, and compare every byte
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
clean: ## Remove .venv, caches and the demo's folder; your stores and data are kept
	rm -rf .venv __pycache__ benchmarks/.env demo site build dist *.egg-info .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache pipeline/images/_jpeg_crop.*.so
	find $(wildcard pipeline workflows cluster tests benchmarks examples) -name __pycache__ -prune -exec rm -rf {} +

.PHONY: help
help: ## Show this list
	@echo "make TARGET [VARIABLE=value ...]"
	@echo
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  DATA      folder, archive or URL of the images, e.g. DATA=/path/to/ILSVRC2012"
	@echo "  STORE     folder or URL of the store, e.g. STORE=/fast/imagenet"
	@echo "  SPLIT     train, val, ... (default: all)    SIZES    e.g. SIZES=\"72 224 288\""
	@echo "  WORKERS   processes (default: 1 per core)   CLUSTER  local, tls://HOST:8786, ssh:FILE, slurm:FILE"
	@echo "  RUN       folder of a training run          GPUS     number of GPUs (default: all)"
	@echo "  TRUNK     vision model: folder or hub name  WORDS    file of word vectors"
	@echo "  STUDY     name, as tesserae study --help    CERTS    folder of certificates for tls://"
	@echo "  PYTHON    interpreter of .venv (python3)    EXTRAS   extras to install, e.g. train"
	@echo "  PILLOW    auto, simd or stock (auto)        URL      where push copies to, and pull from"
	@echo "  ARGS      further options of the command"

# --- What the targets stand on ---------------------------------------------------------------------

# 0.2 s when all is there.
.PHONY: .ready .ready-train .ready-search .ready-dev .ready-docs .ready-release
.ready:
	@$(PYTHON) $(SETUP) --quiet
.ready-train:
	@$(PYTHON) $(SETUP) --quiet --need train
.ready-search:
	@$(PYTHON) $(SETUP) --quiet --need search
.ready-dev:
	@$(PYTHON) $(SETUP) --quiet --need dev
.ready-docs:
	@$(PYTHON) $(SETUP) --quiet --need docs
.ready-release:
	@$(PYTHON) $(SETUP) --quiet --need release

# What a target needs is said at once, all of it, before a minute is spent on .venv.
EXAMPLE_DATA := DATA=/path/to/ILSVRC2012
EXAMPLE_STORE := STORE=/path/to/store
EXAMPLE_TRUNK := TRUNK=/path/to/model
EXAMPLE_URL := URL=s3://bucket/imagenet
EXAMPLE_STUDY := STUDY=gaussians
needs = $(strip $(foreach name,$(1),$(if $($(name)),,$(name))))
.PHONY: .store .store-data .store-trunk .store-url .study .images
.store:
	@$(call check,STORE)
.store-data:
	@$(call check,DATA STORE)
.store-trunk:
	@$(call check,STORE TRUNK)
.store-url:
	@$(call check,STORE URL)
.study:
	@$(call check,STUDY)
.images:
	@$(call check,DATA)
check = $(if $(call needs,$(1)),$(error $(MAKECMDGOALS) needs $(call needs,$(1)): make $(MAKECMDGOALS) $(foreach name,$(1),$(if $($(name)),$(name)=$($(name)),$(EXAMPLE_$(name))))),:)
