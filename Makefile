# make echo: build, then an echo server with real clients. make test: build, then the test-suite. Also: build, bench, lint, clean.
# Everything happens in a private environment, .venv. PYTHON=python3.14 chooses the interpreter, ARGS= is passed on.
PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=

RUN := $(VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help check build echo test bench lint clean
.DELETE_ON_ERROR:

help:
	@sed -n '1,2s/^# //p' Makefile

# Says what is missing before anything is made or fetched.
check:
	@missing=; say() { missing=yes; echo "missing: $$1" >&2; }; \
	if ! command -v '$(PYTHON)' >/dev/null; then \
		say "$(PYTHON), an interpreter (Debian: apt-get install python3)"; \
	else \
		'$(PYTHON)' -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 15))' || \
			say "CPython 3.11 to 3.15; $(PYTHON) is another version (choose with PYTHON=)"; \
		'$(PYTHON)' -c 'import venv, ensurepip' 2>/dev/null || \
			say "the venv module of $(PYTHON) (Debian: apt-get install python3-venv)"; \
		'$(PYTHON)' -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || \
			say "the headers of $(PYTHON) (Debian: apt-get install python3-dev)"; \
	fi; \
	command -v "$${CC:-gcc}" >/dev/null || say "a C compiler (Debian: apt-get install gcc)"; \
	test -z "$$missing" || { echo "On Debian all of them: apt-get install python3-dev python3-venv gcc make" >&2; exit 1; }

# Installs the lists of pyproject.toml named in $(1); "build" is what [build-system] requires.
define install
	@echo "== installing what it takes to $(2)"
	@$(RUN) -c 'import sys, tomllib; p = tomllib.load(open("pyproject.toml", "rb")); \
		lists = p["project"]["optional-dependencies"] | {"build": p["build-system"]["requires"]}; \
		print(*(each for name in sys.argv[1:] for each in lists[name]), sep="\n")' $(1) > $(VENV)/wanted.txt
	@$(RUN) -m pip install --quiet --disable-pip-version-check --requirement $(VENV)/wanted.txt
	@touch $@
endef

# The stamps' names say which interpreter they are about: with another one, the environment is made anew.
ID := $(shell '$(PYTHON)' -c 'import sys, zlib; print(sys.version.split()[0], zlib.crc32(sys.executable.encode()), sep="-")' 2>/dev/null)

$(VENV)/made-$(ID): | check
	@echo "== making an environment, $(VENV), with $(PYTHON)"
	@rm -rf '$(VENV)'
	@'$(PYTHON)' -m venv '$(VENV)'
	@# This folder, importable from anywhere.
	@pwd > "$$($(RUN) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/greenio-checkout.pth"
	@touch $@
$(VENV)/for-build-$(ID): pyproject.toml | $(VENV)/made-$(ID)
	$(call install,build,build)
$(VENV)/for-test-$(ID): pyproject.toml | $(VENV)/for-build-$(ID)
	$(call install,test,test)
$(VENV)/for-bench-$(ID): pyproject.toml | $(VENV)/for-build-$(ID)
	$(call install,bench,measure)
$(VENV)/for-lint-$(ID): pyproject.toml | $(VENV)/for-test-$(ID)
	$(call install,dev,lint)

build: check $(VENV)/for-build-$(ID)
	@echo "== building"
	@$(RUN) setup.py --quiet build_ext --inplace

echo: build
	@echo "== an echo server, and clients in a process of their own"
	@$(RUN) examples/echo_server.py --selftest $(ARGS)

test: build $(VENV)/for-test-$(ID)
	@echo "== testing"
	@$(RUN) -m pytest $(ARGS)

bench: build $(VENV)/for-bench-$(ID)
	@echo "== measuring"
	@$(RUN) -m benchmarks $(ARGS)

lint: build $(VENV)/for-lint-$(ID)
	@echo "== ruff"
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@echo "== mypy"
	@$(RUN) -m mypy
	@echo "== stubs against the built modules"
	@# It knows no TypeVarTuple in Python sources and not typing's own class of a generic NamedTuple; of a constructor with
	@# nothing but keywords, Cython says (*args, **kwargs), and of one that is refused nothing. SelectModule has its names as a module,
	@# not as a class. The classes of compat.sqlite3 are made in a function.
	@printf '%s\n' 'greenio\._run\._Arguments' 'greenio\._groups\.DoneAndNotDone\.__class_getitem__' \
		'greenio\._scopes\.CancelScope\.__init__' 'greenio\._task_groups\.TaskGroup\.__init__' \
		'greenio\._select_module\.SelectModule\.(epoll|error|poll|select)' \
		'greenio\._standard_threads\.(FiberThread|ThreadHandle|WaitingLine)\.__init__' \
		'greenio\._standard_threads\.FiberThread\.__call__' \
		'greenio\.compat\.sqlite3\.(Connection|Cursor)(Type)?@[0-9]+' | $(RUN) -m mypy.stubtest --ignore-disjoint-bases --allowlist /dev/stdin greenio $(ARGS)

clean:
	rm -rf '$(VENV)' build dist *.egg-info .coverage .coverage.* htmlcov .pytest_cache .mypy_cache .ruff_cache
	find greenio -name '*.so' -delete
	find greenio -name '*.pyx' | sed 's/pyx$$/c/' | xargs rm -f
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
