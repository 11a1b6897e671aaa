# allconv-caffe: `make quickstart` and `make test` are all it takes; `make help` lists the rest.
# Nothing needs an activated environment: every recipe calls .venv/bin directly.

PYTHON    ?= python3
# What is installed beside the package itself; `make setup EXTRAS=dev,cluster,slurm,export,hub,docs` adds Ray
# and submitit for `allconv sweep --on`, onnx, onnxruntime and safetensors for `allconv export`, Sphinx and Jupyter for docs/.
EXTRAS    ?= dev
# `make setup HASHES=1` takes only files whose SHA-256 stands in requirements.lock; torch alone is taken by its version
HASHES    ?=
VENV      := .venv
BIN       := $(VENV)/bin
STAMP     := $(VENV)/.set-up$(if $(value HASHES),-by-hash)
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check
# The folders in solvers/ are the experiments; allconv_caffe/paper/experiments.py renders them.
RUNS := $(notdir $(patsubst %/,%,$(wildcard solvers/*/)))

# Settings of a run, e.g. `make cifar10-allcnn-c CIFAR10=~/cifar-10-python.tar.gz EPOCHS=35 SEED=2`: each is the option of
# `allconv run` with that name, declared in allconv_caffe/train/settings.py; a test compares.
SETTINGS := SEED EPOCHS ENGINE LR BATCH_SIZE PRECISION RNG GPU VALIDATION THREADS RETRIES
CIFAR10  ?=
CIFAR100 ?=
IMAGENET ?=
# The value of a variable for the shell, as it was typed: `...` and $(...) in it are letters. WORDS: the same of a variable that
# holds several words, with blanks between them; a word may begin with ~/.
QUOTED = '$(subst ','\'',$(value $(1)))'
WORDS = $(foreach each,$(value $(1)),$(if $(filter ~/%,$(each)),~/)'$(subst ','\'',$(patsubst ~/%,%,$(each)))')

# The paper's figures, e.g. `make figures FIGURE_NET="--net deploy.prototxt --weights net.caffemodel --mean 104,117,123"
# FIGURE_DATA=~/imagenet/val FIGURE_LABELS=synset_words.txt`; figure 6 takes a net with max-pooling, CONTROL_NET
FIGURES      ?= build/figures
FIGURE_NET   ?= --model cifar10-allcnn-c-jpeg
CONTROL_NET  ?= --model cifar10-model-c-jpeg
FIGURE_DATA  ?= data/cifar10-jpeg
FIGURE_SEED  ?= 5
FIGURE_FLAGS ?=
FIGURE_LABELS ?=
FIGURE_RUNS  := figure-1 figure-2 figure-3 figure-4 figure-5 figure-6

TEST_WORKERS ?= auto
PYTEST := $(BIN)/python -m pytest -q
DATA_OF = $(if $(filter imagenet-%,$(1)),IMAGENET,$(if $(filter cifar100-%,$(1)),CIFAR100,CIFAR10))
GRID  ?= table-3
RATES := .25,.1,.05,.01
SWEEP ?=
FLAG_OF = --$(shell printf %s $(1) | tr A-Z_ a-z-)
RUN_FLAGS = $(foreach name,$(SETTINGS),$(if $(value $(name)),$(call FLAG_OF,$(name)) $(call QUOTED,$(name))))

# Not into the environment: make would run a $(shell ...) that stands in one.
unexport $(SETTINGS) CIFAR10 CIFAR100 IMAGENET PYTHON EXTRAS HASHES TEST_WORKERS GRID SWEEP NETS BENCH SEED_EXACT MATRIX FUZZ POINTS SOAK \
	FIGURES FIGURE_NET CONTROL_NET FIGURE_DATA FIGURE_SEED FIGURE_FLAGS FIGURE_LABELS

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup lock quickstart test fuzz crash-points soak lint types format render data cifar10 cifar100 grid report open doctor caffe caffe-source parity \
	seed-exact bench bench-nets bench-layers bench-growth bench-prep bench-data bench-augment bench-viz zoo docs site wheel matrix clean \
	figures figure-1 figure-2 figure-3 figure-4 figure-5 figure-6 $(RUNS)

help: ## list every target
	@echo "make TARGET [CIFAR10=path] [CIFAR100=path] [IMAGENET=path] [ENGINE=auto|caffe|torch] [GPU=0|0,1|none] [LR=...] [EPOCHS=...]"
	@echo "            [SEED=...] [BATCH_SIZE=...] [PRECISION=float32|tf32|bf16] [RNG=torch|caffe] [THREADS=n] [RETRIES=n]"
	@echo
	@sed -n 's/^\([a-z][a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | \
		while IFS="$$(printf '\t')" read -r name text; do printf '  %-24s %s\n' "$$name" "$$text"; done
	@echo
	@echo "Experiments: data, prototxt, training, test and report, as far as they are missing"
	@for name in $(RUNS); do printf '  %-24s %s\n' "$$name" \
		"$$(sed -n '1s/^# [^:]*: \(.*\)\. Rendered by.*/\1/p' solvers/$$name/solver.prototxt)"; done

$(STAMP): pyproject.toml setup.py constraints.txt requirements.lock
	@$(call WORDS,PYTHON) -c 'import sys; sys.exit("make setup: Python %d.%d found, 3.10 or later expected; name one with PYTHON=" \
		% sys.version_info[:2] if sys.version_info < (3, 10) else 0)'
	@test -x $(BIN)/python || $(call WORDS,PYTHON) -m venv $(VENV) 2>/dev/null || { \
		$(call WORDS,PYTHON) -m venv --clear --without-pip $(VENV) && $(call WORDS,PYTHON) -m pip --python $(BIN)/python install pip; }
ifeq ($(value HASHES),)
	$(PIP_INSTALL) -c constraints.txt setuptools
	$(PIP_INSTALL) -c constraints.txt --no-build-isolation -e '.['$(call QUOTED,EXTRAS)']'
else
	@test -e $@ || test ! -e $(VENV)/.set-up || { echo "make setup: $(VENV) was made without hashes: rm -r $(VENV)" >&2; exit 1; }
	$(BIN)/python .ci/lock.py choose $(call QUOTED,EXTRAS) > $(VENV)/requirements.txt
	$(PIP_INSTALL) --require-hashes --no-deps -r $(VENV)/requirements.txt
	$(PIP_INSTALL) -c constraints.txt torch
	$(PIP_INSTALL) --no-deps --no-build-isolation -e .
	$(BIN)/python -m pip check
endif
	@touch $(VENV)/.set-up $@

setup: $(STAMP) ## make .venv with the pinned versions; where there is no other caffe, let `caffe` be caffe-torch
	@$(BIN)/python -m allconv_caffe.doctor place-caffe $(BIN)

lock: setup ## requirements.lock: constraints.txt with the hashes of every file (minutes, the index is asked)
	$(BIN)/python .ci/lock.py

quickstart: setup ## the main job in minutes: a generated data set, one of the paper's nets trained, tested and plotted
	$(BIN)/allconv quickstart

test: setup ## every test that needs no network, no GPU and no Caffe
	$(PYTEST) -n $(call QUOTED,TEST_WORKERS) --maxprocesses 8 -m "not caffe and not slow and not gpu"

lint: setup ## ruff: style, order of imports, layout
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup ## ruff: lay the code out afresh
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

fuzz: setup ## mutated files of every format that is read here: tried, taken, refused (FUZZ= its options)
	PYTHONPATH=.:tests:tests/parity:tests/hostile $(BIN)/python tests/hostile/fuzz_files.py $(call WORDS,FUZZ)

soak: setup ## train, snapshot, kill, resume, test and predict again and again, memory, descriptors and files watched (SOAK="--minutes 30")
	PYTHONPATH=.:tests $(BIN)/python tests/hostile/soak.py $(call WORDS,SOAK)

crash-points: setup ## work killed, or out of disk, before and after each call that changes a file: points, wrong (POINTS="--only prep")
	PYTHONPATH=.:tests $(BIN)/python tests/hostile/crash_points.py $(call WORDS,POINTS)

types: setup ## mypy
	$(BIN)/mypy

render: setup ## tables and templates -> solvers/<experiment>/*.prototxt
	$(BIN)/allconv render

data: cifar10 cifar100 ## both data sets

cifar10: setup ## data/cifar10 from CIFAR10=archive or the official archive (170 MB)
	$(BIN)/allconv prep cifar10 $(if $(value CIFAR10),--source $(call QUOTED,CIFAR10))

cifar100: setup ## data/cifar100 from CIFAR100=archive or the official archive (169 MB)
	$(BIN)/allconv prep cifar100 $(if $(value CIFAR100),--source $(call QUOTED,CIFAR100))

$(RUNS) grid quickstart: export ALLCONV_TYPED := make# its messages then name these variables, not options

$(RUNS): setup
	$(BIN)/allconv run $@ $(if $(value $(call DATA_OF,$@)),--data $(call QUOTED,$(call DATA_OF,$@))) $(RUN_FLAGS)

grid: setup ## the paper's rates x Table 3's twelve networks x three seeds (GRID= other networks, LR=, SEED=, EPOCHS=, SWEEP= other options)
	$(BIN)/allconv sweep $(call WORDS,GRID) --lr $(if $(value LR),$(call QUOTED,LR),$(RATES)) --seed $(if $(value SEED),$(call QUOTED,SEED),1-3) \
		$(if $(value CIFAR10),--data $(call QUOTED,CIFAR10)) $(foreach name,$(filter-out LR SEED,$(SETTINGS)),$(if $(value $(name)),$(call FLAG_OF,$(name)) $(call QUOTED,$(name)))) $(call WORDS,SWEEP)

report: setup ## measured beside published, for all runs in runs/
	$(BIN)/allconv report

open: setup ## one page over all runs, models, galleries, reports and figures, shown in the browser
	$(BIN)/allconv open

doctor: setup ## engines, GPUs, data sets and versions found, and what to do about what is missing
	@$(BIN)/allconv doctor

caffe: setup ## a real BVLC Caffe (CPU) into .caffe, without root, from this machine's Debian mirror
	$(BIN)/python -m allconv_caffe.bvlc install --prefix .caffe

caffe-source: setup ## the source of the same Caffe into .caffe-source: pycaffe's own tests, which run on our drop-in
	$(BIN)/python -m allconv_caffe.bvlc source --prefix .caffe-source

parity: setup ## the tests that run a real Caffe beside ours; one that is skipped is a failure
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 ALLCONV_REQUIRE_CAFFE=1 $(PYTEST) -n $(call QUOTED,TEST_WORKERS) --maxprocesses 8 -m caffe

seed-exact: setup ## the loss curve of a real Caffe with the same seed: All-CNN-C, 200 iterations; half an hour on 2 cores
	$(BIN)/python benchmarks/seed_exact.py $(call WORDS,SEED_EXACT)

bench: setup ## training images/s: this engine, BVLC Caffe, plain PyTorch, in one run
	$(BIN)/python benchmarks/bench_engine.py

bench-nets: setup ## every net of a table, training and forward, beside Caffe and PyTorch (NETS= some, BENCH= other options)
	$(BIN)/python benchmarks/bench_nets.py $(if $(value NETS),--only $(call QUOTED,NETS)) $(call WORDS,BENCH)

bench-layers: setup ## microseconds of a small layer in the drop-in's forward, and of params, blobs and reshape, beside BVLC Caffe's
	$(BIN)/python benchmarks/bench_layers.py

bench-growth: setup ## what an image, a layer and a net more cost, from 1 to 512, 1,000 and 100, and images/s by threads
	$(BIN)/python benchmarks/bench_growth.py

bench-prep: setup ## seconds and memory of preparing 60,000 images
	$(BIN)/python benchmarks/bench_prep.py

bench-data: setup ## records/s of the Data layer on one thread, beside BVLC Caffe's own and OpenCV's decoding alone
	$(BIN)/python benchmarks/bench_data.py

bench-augment: setup ## Large-All-CNN's training images/s, beside the limits it must keep
	$(BIN)/python benchmarks/bench_augment.py

bench-viz: setup ## guided reconstructions/s of the ImageNet net beside captum, and mining images/s, in one run
	$(BIN)/python benchmarks/bench_viz.py

zoo: setup ## check every model in models/: sizes, SHA-1, cards, shapes of the weights
	$(BIN)/allconv zoo verify

docs: setup ## write the generated pages and README's tables again and check every link
	$(BIN)/python -m allconv_caffe.report.docs

site: setup ## the documentation as a site into build/site, a warning is an error (make setup EXTRAS=dev,docs)
	$(BIN)/python -m sphinx -W --keep-going -q -b html -c docs/site -d build/site-doctrees . build/site

wheel: setup ## build the wheel and the source distribution into dist/ (make test installs one elsewhere and renders with it)
	$(BIN)/python -m pip wheel --disable-pip-version-check --quiet --no-deps --no-build-isolation --wheel-dir dist .
	$(BIN)/python -c 'from setuptools import build_meta; build_meta.build_sdist("dist")' >/dev/null

matrix: setup ## the quick tests with the lowest versions that pyproject.toml allows, and with the newest; what needs no torch on Python 3.13 and 3.14; wheels for each Python
	$(BIN)/python .ci/matrix.py $(call WORDS,MATRIX)

figures: $(FIGURE_RUNS) ## the paper's figures 1 to 6 into build/figures (FIGURES=), from FIGURE_NET, CONTROL_NET, FIGURE_DATA

FIGURE = $(BIN)/allconv viz figure $(1) $(call WORDS,$(2)) $(if $(filter-out 2,$(1)),--data $(call QUOTED,FIGURE_DATA)) --seed $(call QUOTED,FIGURE_SEED) $(call WORDS,FIGURE_FLAGS) \
	$(if $(filter 4 5 6,$(1)),$(if $(value FIGURE_LABELS),--labels $(call QUOTED,FIGURE_LABELS))) --output $(call QUOTED,FIGURES)/figure-$(1).png

figure-1: setup ## how one activation is traced back, the three rules on a toy, their formulas
	$(call FIGURE,1,FIGURE_NET)

figure-2: setup ## what the filters of the first three layers look for, without an image
	$(call FIGURE,2,FIGURE_NET)

figure-3: setup ## each filter's ten strongest patches with their guided maps
	$(call FIGURE,3,FIGURE_NET)

figure-4: setup ## the last convolution by three rules, with and without switches
	$(call FIGURE,4,FIGURE_NET)

figure-5: setup ## the scores by three rules, with and without switches
	$(call FIGURE,5,FIGURE_NET)

figure-6: setup ## the control: the scores of a net with max-pooling of its own
	$(call FIGURE,6,CONTROL_NET)

clean: ## remove what can be made again, but neither data, runs nor environments
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find allconv_caffe data_prep prototxt_templates benchmarks tests -name __pycache__ -prune -exec rm -rf {} +
