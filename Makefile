# make demo    verdicts on the sample stream as they come; no camera, no broker, no torch. Ctrl-C or DEMO_FRAMES=N ends it
# make test    lint, types and the whole test suite
# make chaos   faults at full length, half an hour: kills, bad brokers and networks, load, a long soak; ends in a table
# make lint    ruff and mypy alone
# make clean   removes what the others made
# Needs Debian or Ubuntu with Python >= 3.11; PYTHON=… names another one than the first found.

SHELL := bash
PATH := $(PATH):/usr/sbin:/sbin# mosquitto lives there, and Debian leaves it out of a user's path
export PATH
export PIP_DISABLE_PIP_VERSION_CHECK := 1

DEMO_FRAMES ?=
DEMO_OUT := $(CURDIR)/demo-output
CHAOS_RESULTS := $(CURDIR)/build/chaos.jsonl

.PHONY: demo test chaos lint clean

# The config is empty on purpose: the demo is the same whatever /etc/zsad-agent/agent.yaml says.
demo: .venv-demo/installed
	@rm -rf "$(DEMO_OUT)/state" && mkdir -p "$(DEMO_OUT)/state" "$(DEMO_OUT)/cache"
	@echo "Inspecting demo/stream. Heatmaps come to demo-output/heatmaps, results to the MQTT broker inside. Ctrl-C ends it."
	@STATE_DIRECTORY="$(DEMO_OUT)/state" CACHE_DIRECTORY="$(DEMO_OUT)/cache" \
		.venv-demo/bin/zsad-agent --config /dev/null --source demo/stream --loop --fps 2 --broker embedded \
		--print-results --save-heatmaps "$(DEMO_OUT)/heatmaps" $(if $(DEMO_FRAMES),--max-frames $(DEMO_FRAMES))

test: .venv/installed
	tests/system-packages.sh
	$(MAKE) --no-print-directory lint
	.venv/bin/python -m pytest --numprocesses 2 --dist loadfile

# The table comes whatever failed; the exit code is pytest's.
chaos: export ZSAD_CHAOS_RESULTS := $(CHAOS_RESULTS)
chaos: .venv/installed
	tests/system-packages.sh
	@mkdir -p build && rm -f "$(CHAOS_RESULTS)" && touch "$(CHAOS_RESULTS)"
	.venv/bin/python -m pytest -m chaos && .venv/bin/python -m pytest tests/chaos/test_attacks.py; code=$$?; \
		.venv/bin/python tests/chaos_table.py "$(CHAOS_RESULTS)"; exit $$code

lint: .venv/installed
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

# `.venv/src` shows mypy the four folders under their import names; it cannot follow the editable install's finder.
.venv/installed: pyproject.toml constraints.txt make-venv.sh
	./make-venv.sh .venv dev
	mkdir -p .venv/src
	for name in agent core training convert; do ln -sfn ../../$$name .venv/src/zsad_$$name; done
	touch $@

.venv-demo/installed: pyproject.toml constraints.txt make-venv.sh
	./make-venv.sh .venv-demo embedded-broker
	touch $@

clean:
	rm -rf .venv .venv-demo build dist demo-output *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
