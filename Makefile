# `make` lists what there is. Every target sets up what it needs and may be repeated.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.PHONY: help setup demo inventory state plan shell test check lint unit integration e2e molecule \
	fix bench lab-up lab-down lab-status clean

# Everything runs with the checkout's own environment first in PATH and its ansible.cfg.
in_env := . ./activate &&
python := $(in_env) python

help: ## List the targets
	@printf 'Neural-Home Infrastructure: a Proxmox lab that is known, changed and recovered safely.\n\n'
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@printf '\nStart with: make demo\n'

setup: ## Make the virtual environment with all tools, outside the tree
	@scripts/bootstrap.sh dev

demo: ## Create a lab with real guests and show what nhi.core does with it
	@scripts/bootstrap.sh demo
	@$(in_env) scripts/demo.sh

inventory: ## Show the guests as Ansible sees them
	@$(in_env) ansible-inventory --graph

state: ## Show the verified state of the lab
	@$(in_env) nhi state show

plan: ## Show what destroying a guest would break: make plan GUEST=postgres-lxc
	@$(in_env) ansible-playbook playbooks/destroy_guest.yml -e guest=$(or $(GUEST),postgres-lxc) --check

shell: ## Open a shell in which ansible-playbook and nhi are those of this checkout
	@scripts/bootstrap.sh demo
	@$(in_env) exec "$${SHELL:-/bin/bash}"

test: ## Run everything, with real containers when root (about 20 minutes)
	@scripts/bootstrap.sh test
	@$(python) scripts/test.py

check: ## Run linters and fast tests, all but ansible-test (about 2 minutes)
	@scripts/bootstrap.sh dev
	@$(python) scripts/check.py fast

lint: ## Run linters, types, ansible-test sanity, documentation checks
	@scripts/bootstrap.sh dev
	@$(python) scripts/check.py lint

unit: ## Run the fast tests
	@scripts/bootstrap.sh dev
	@$(python) scripts/check.py unit

integration: ## Run the modules' integration targets with ansible-test against a lab in memory
	@scripts/bootstrap.sh dev
	@$(python) -m pytest -m e2e tests/test_integration_targets.py

e2e: ## Run the journeys: in memory, and on real containers when root
	@scripts/bootstrap.sh test
	@$(python) scripts/test.py e2e

molecule: ## Run the role scenarios on real containers (root)
	@scripts/bootstrap.sh test
	@$(python) scripts/molecule.py

fix: ## Let ruff mend and format what it can
	@scripts/bootstrap.sh dev
	@$(in_env) ruff check --fix --quiet; ruff format --quiet

bench: ## Measure state, history, scan, inventory, deployment and router against what is used today (about 20 minutes)
	@scripts/bootstrap.sh dev
	@$(python) -m benchmarks.state
	@$(python) -m benchmarks.history
	@$(python) -m benchmarks.scan
	@$(python) -m benchmarks.inventory
	@$(python) -m benchmarks.plan
	@$(python) -m benchmarks.service
	@$(python) -m benchmarks.audit
	@$(python) -m benchmarks.router

lab-up: ## Start the lab: a Proxmox VE API on real containers when root, in memory when not
	@scripts/bootstrap.sh demo
	@$(python) -m lab up

lab-down: ## Stop the lab and remove every guest, mount, bridge and NAT rule it made
	@scripts/bootstrap.sh demo
	@$(python) -m lab down

lab-status: ## Say what runs in the lab
	@scripts/bootstrap.sh demo
	@$(python) -m lab status

clean: ## Remove the lab, the virtual environment and everything else that was made
	@scripts/clean.sh
