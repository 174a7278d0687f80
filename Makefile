# Bulkhead: `make run` and `make test` do everything, set-up included; `make help` lists the rest.

.DEFAULT_GOAL := build
.NOTPARALLEL:
.PHONY: help setup build run check test test-logic test-unit test-native test-tools test-system test-all test-matrix fuzz iso bench bench-linux bench-peers profile clean distclean

BOX ?= machines/two-linux.toml
KIND ?= cpuid
MINUTES ?= 10
ON ?= qemu-svm

bulkhead := .env/bin/bulkhead
python2  := .env/bin/python2
python3  := .env/bin/python3

# What the Pythons and their tests leave behind belongs into build/.
export PYTHONPYCACHEPREFIX := $(CURDIR)/build/pycache
pytest2 = $(python2) -m pytest -o cache_dir=build/pytest-2
pytest3 = $(python3) -m pytest -o cache_dir=build/pytest-3

# $(call some-tests,FOLDERS): the folders, or an error when one of them holds no test. pytest alone would not mind.
some-tests = $(foreach folder,$(1),$(if $(shell find $(folder) -name 'test_*.py' -print -quit),$(folder),\
               $(error there are no tests in $(folder))))

help:           ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 22
	@echo "  BOX=machines/NAME.toml names another box than $(BOX) for build, run and iso."

setup:          ## install what is missing: Debian packages, and two Pythons in .env
	@tools/setup/setup.sh

build: setup    ## build the three programs, the guests and the box (the default)
	@$(python3) tools/build/build.py
	@$(python3) tests/guests/build.py
	@$(python3) tools/guests/linux.py
	@$(bulkhead) build $(BOX)

run: build      ## boot the box with its two Debian guests on an emulated machine
	@$(bulkhead) run $(BOX)

check: setup    ## check every machines/*.toml, without booting anything
	@$(bulkhead) check machines/*.toml

iso: build      ## make one ISO of the box that boots on BIOS and UEFI machines, from USB as well
	@$(bulkhead) build --iso $(BOX)

test: build     ## run all tests: unit, native, tools, system and hostile
	@failed=; \
	for level in logic tools system; do \
	    echo; echo "== make test-$$level"; \
	    $(MAKE) --no-print-directory test-$$level || failed="$$failed test-$$level"; \
	done; \
	[ -z "$$failed" ] || { echo "failed:$$failed" >&2; exit 1; }

test-unit: setup    ## run the hypervisor's logic untranslated, in seconds
	@$(python3) tools/parts.py $(python2) build/pytest-2 $(call some-tests,tests/unit)

test-logic: build ## run test-unit and test-native side by side
	@$(python3) tools/parts.py $(python2) build/pytest-2 $(call some-tests,tests/unit) $(call some-tests,tests/native)

test-native: build  ## run the same vectors through translated code
	@$(pytest2) $(call some-tests,tests/native)

test-tools: build   ## test the bulkhead command and the build's own steps
	@$(pytest3) -n 2 $(call some-tests,tests/tools)

test-system: build  ## boot whole boxes on QEMU and Bochs, hostile guests and VMMs among them, and keep the bench's limits
	@$(pytest3) -n 2 $(call some-tests,tests/system tests/hostile tests/bench)

test-all:       ## run all tests, the long matrix of real guests, and fuzz
	@failed=; \
	for level in test test-matrix fuzz; do \
	    $(MAKE) --no-print-directory $$level || failed="$$failed $$level"; \
	done; \
	[ -z "$$failed" ] || { echo "failed:$$failed" >&2; exit 1; }

test-matrix: build  ## boot the real guests of docs/guests.md on QEMU and Bochs: an hour or two; fetches Debian's packages
	@$(pytest3) -n 2 $(call some-tests,tests/matrix)

fuzz: build     ## run the property tests with examples that no run has seen, for MINUTES=10
	@$(python3) tools/fuzz.py $(MINUTES) $(python2) $(python3)

bench: build    ## count what each operation costs a guest, on three emulated processors, against tests/bench/budget.toml
	@$(python3) tools/bench/bench.py $(if $(COMPARE),--compare $(COMPARE))

bench-peers: build  ## run the bench guest under other hypervisors on QEMU; fetches Debian's packages
	@$(python3) tools/bench/peers.py

bench-linux: build  ## count what a Debian guest loses to the hypervisor, and how often it exits, busy, asleep and booting
	@$(python3) tools/bench/linux.py

profile: build  ## show where the instructions of one exit go: KIND=cpuid, any row of the bench, start, or text; ON=bochs-vmx
	@$(python3) tools/bench/exitpath.py $(KIND) --on $(ON)

clean:          ## remove what was built
	rm -rf build

distclean: clean    ## remove the Pythons in .env as well
	rm -rf .env tools/*.egg-info
