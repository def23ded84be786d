# Two commands do everything: `make demo` and `make test`. The rest is what they are made of.
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
# What the playbooks and molecule start must find the tools of this checkout first.
export PATH := $(CURDIR)/$(BIN):$(PATH)

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: setup bundles ## Build a fleet on this machine, predict over HTTPS, say what to try next
	@$(BIN)/python -m tools.demo

demo-all: setup examples ## Train and serve every example of examples/, and show answers of each through nginx; half an hour
	@$(BIN)/python -m tools.demo_all

demo-down: ## Remove the demo's hosts, mounts, bridge and firewall rules
	@tools/testhosts down demo

# Each part is timed; `make test` ends with their table (docs/testing.md).
TIMED = @$(BIN)/python -m tools.minutes run

check: setup test-lint test-templates test-control test-service ## Lint, types, service and template tests; needs no host

test: setup bundles ## Everything: check, then real hosts
	@$(BIN)/python -m tools.minutes start
	@# A run that was cut off left hosts behind that molecule would take for converged.
	@$(BIN)/molecule destroy --all
	$(TIMED) create $(BIN)/molecule create --scenario-name default
	@# Two at a time, as each keeps little more than one core busy; the scenarios of the fleet take as long as the rest.
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=line \
		test-fleet test-service test-one-host test-damage test-lint test-templates test-control test-parts
	@$(BIN)/molecule destroy --all
	@$(BIN)/python -m tools.minutes print

# Hosts are shared and stay, so that what one scenario built the next one finds (molecule/default). Alone these two want
# `make bundles` first: as a prerequisite it would make this lane, the longest, begin last.
SCENARIO = $(BIN)/molecule test --destroy=never --scenario-name
test-fleet: setup
	$(TIMED) base $(SCENARIO) base
	$(TIMED) bedplate $(SCENARIO) bedplate
	$(TIMED) logrotate $(SCENARIO) logrotate
	$(TIMED) nginx $(SCENARIO) nginx
	$(TIMED) prometheus $(SCENARIO) prometheus
	$(TIMED) redis $(SCENARIO) redis
	$(TIMED) site $(SCENARIO) site
	$(TIMED) trixie $(SCENARIO) trixie
	$(TIMED) ufw $(SCENARIO) ufw

# The host of this one belongs to no other scenario.
test-one-host: setup
	$(TIMED) one-host $(SCENARIO) one-host

test-lint: setup
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(TIMED) types $(BIN)/mypy
	@$(BIN)/yamllint --strict .
	$(TIMED) ansible-lint $(BIN)/ansible-lint --offline --profile production

# Apart from the service: Ansible patches sys.intern in its process, and torch cannot be trained in one.
test-templates: setup
	$(TIMED) templates $(BIN)/pytest tests/templates tests/library

test-control: setup
	$(TIMED) control $(BIN)/pytest tests/control

test-service: setup
	$(TIMED) service $(BIN)/pytest --durations=20 --durations-min=2

test-damage: setup
	$(TIMED) damage $(BIN)/pytest tests/backup/test_damage.py

test-parts: setup
	$(TIMED) disposable $(BIN)/pytest tests/disposable
	$(TIMED) backup $(BIN)/pytest tests/backup --ignore=tests/backup/test_damage.py

acceptance: test test-examples test-in-full zoo fuzz faults rollouts ## All of it, and what proves figures: every example trained, floods, planted faults, wrong releases; three hours

test-in-full: setup bundles ## What `make test` tries once or briefly, every time and for long; half an hour
	@$(BIN)/pytest --hypothesis-profile=acceptance tests/service/test_wire_properties.py
	@$(BIN)/pytest -m acceptance tests/backup
	@$(BIN)/molecule converge -s site
	@$(BIN)/molecule side-effect -s site
	@$(BIN)/pytest -m acceptance tests/fleet

test-examples: examples ## Train every example from nothing and hold it to its README; a quarter of an hour
	@$(BIN)/pytest --timeout=1200 tests/trained

VM_INVENTORY := .bedplate/vm/one-host
test-vm: bundles ## One host as a virtual machine: memory, addresses, power; slow, no part of `make test`
	@tools/setup-vm
	@tools/testhosts down vm && rm -rf .bedplate/vm
	@tools/testhosts up vm host1:bookworm
	@$(BIN)/python -m tools.trial inventory/one-host vm
	@install -D --mode=0644 tests/vm/host.yml $(VM_INVENTORY)/host_vars/host1.yml
	@$(BIN)/ansible-playbook --inventory=$(VM_INVENTORY) site.yml
	@ssh -F .bedplate/vm/ssh_config host1 sudo install -D --mode=0644 /dev/stdin \
		/etc/systemd/system/bedplate-.service.d/emulated.conf <tests/vm/emulated.conf
	@tools/testhosts emulate vm host1
	@# What it wrote stays for whoever asks why; so does the machine.
	@$(BIN)/pytest -s --timeout=3600 tests/vm || { tools/testhosts console vm host1 >build/vm-console.log; exit 1; }
	@tools/testhosts down vm && rm -rf .bedplate/vm

zoo: setup ## Import small models of 48 architectures by one command each, serve them, compare answers; an hour
	@$(BIN)/python -c 'import transformers' || { echo "zoo: needs transformers; docs/bring-your-own.md says how it is installed" >&2; exit 1; }
	@HF_HUB_OFFLINE=1 $(BIN)/python -m tests.zoo

fuzz: setup ## 1,000 examples of each API operation, 10,000 damaged files of each kind, and the full floods, against the running service
	@$(BIN)/python -m tests.service.fuzz_openapi
	@$(BIN)/python -m tests.service.flood_http
	@$(BIN)/python -m tests.service.fuzz_media

faults: setup bundles ## Plant every fault of tests/faults on test hosts and see that a test notices it; an hour
	@$(BIN)/molecule converge -s site
	@$(BIN)/python -m tests.faults

rollouts: setup bundles ## Roll out releases and bundles that are wrong, under load, on the hosts of molecule or of BEDPLATE_FLEET; ten minutes
	@$(BIN)/pytest -s --timeout=600 tests/rollouts

examples: setup ## Train every example that is not trained yet; minutes
	@for script in examples/*/train.py; do \
		name=$${script#examples/}; $(BIN)/python -m "examples.$${name%/train.py}.train" || exit 1; done

bundles: setup ## Train what the demo serves, if it is not trained yet, and check it
	@$(BIN)/python -m examples.digits.train
	@$(BIN)/bedplate bundle check build/bundles/digits/1

setup: $(VENV)/.complete ## Install packages of the distribution and the virtualenv

$(VENV)/.complete: requirements.txt service/requirements.txt $(wildcard locks/*.txt) tools/setup
	@tools/setup $(PYTHON) $(VENV)
	@touch $@

lock: ## Write the hashes of locks/ anew, where pins have changed
	@$(BIN)/python -m tools.lock

.PHONY: help demo demo-all demo-down check test test-lint test-templates test-control test-service test-damage test-parts \
	test-fleet test-one-host \
	test-examples test-in-full acceptance test-vm zoo fuzz faults rollouts examples bundles setup lock
