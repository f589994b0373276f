# make demo    inspects the sample stream and prints verdicts; no camera, broker or torch. Ctrl-C or DEMO_FRAMES=N ends it
# make test    lint, types and the whole test suite
# make chaos   fault tests at full length (half an hour): kills, bad brokers and networks, load, soak; prints a table
# make lint    only ruff and mypy
# make clean   removes everything that the other targets made
# Needs Debian or Ubuntu with Python >= 3.11. PYTHON=… selects one; default: the first found.

SHELL := bash
PATH := $(PATH):/usr/sbin:/sbin# mosquitto is there, and Debian leaves it out of a user's PATH
export PATH
export PIP_DISABLE_PIP_VERSION_CHECK := 1

DEMO_FRAMES ?=
DEMO_OUT := $(CURDIR)/demo-output
CHAOS_RESULTS := $(CURDIR)/build/chaos.jsonl

.PHONY: demo test chaos lint clean

# The empty config makes the demo independent of /etc/zsad-agent/agent.yaml.
demo: .venv-demo/installed
	@rm -rf "$(DEMO_OUT)/state" && mkdir -p "$(DEMO_OUT)/state" "$(DEMO_OUT)/cache"
	@echo "Inspecting demo/stream. Heatmaps go to demo-output/heatmaps, results to the embedded MQTT broker. Ctrl-C ends it."
	@STATE_DIRECTORY="$(DEMO_OUT)/state" CACHE_DIRECTORY="$(DEMO_OUT)/cache" \
		.venv-demo/bin/zsad-agent --config /dev/null --source demo/stream --loop --fps 2 --broker embedded \
		--print-results --save-heatmaps "$(DEMO_OUT)/heatmaps" $(if $(DEMO_FRAMES),--max-frames $(DEMO_FRAMES))

test: .venv/installed
	tests/system-packages.sh
	$(MAKE) --no-print-directory lint
	.venv/bin/python -m pytest --numprocesses 2 --dist worksteal

# The table is printed even if tests failed. The exit code is pytest's.
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

# `.venv/src` gives mypy the four folders under their import names. mypy cannot follow the editable install's finder.
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
