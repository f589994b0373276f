# make demo    teaches a product, inspects it and opens the page; no camera, broker or torch. Ctrl-C or DEMO_FRAMES=N ends it
# make test    lint, types and the whole test suite
# make chaos   fault tests at full length (an hour or more): kills, bad brokers and networks, load, soak; prints a table
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

demo: .venv-demo/installed
	@.venv-demo/bin/python demo/demo.py "$(DEMO_OUT)" $(if $(DEMO_FRAMES),--max-frames $(DEMO_FRAMES))

test: .venv/installed
	tests/system-packages.sh
	$(MAKE) --no-print-directory lint
	.venv/bin/python -m pytest --numprocesses 4 --dist worksteal

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
