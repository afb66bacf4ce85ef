# `make` lists what there is. ./demo and ./check need no make.
.POSIX:
.PHONY: help install demo check lint man bench soak vmtest fresh dist clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1@/p' Makefile | while IFS=@ read -r t d; do printf '%-15s %s\n' "$$t" "$$d"; done

install: ## an editable environment with all tools, in .venv-dev
	.ci/prepare dev

demo: ## boot a private kernel and run the demonstration (root)
	./demo

check: ## run the tests against the installed wheel (root)
	./check

lint: ## the static gates: style, types, trio, imports, manual pages
	.ci/run lint

man: ## rewrite the blocks of the manual pages that come from the tables
	.ci/prepare
	.venv/bin/python man/render.py

bench: ## run every benchmark quickly (root)
	.ci/prepare kernel bench
	bench/run --quick

soak: ## simulate worlds for 30 minutes, or MINUTES=n, and print what they covered
	.ci/prepare test
	.venv/bin/python tests/sim/soak.py --minutes $${MINUTES:-30}

vmtest: ## run the tests in a Debian 12 guest: systemd, pure cgroup v2, Linux 6.1 (root)
	tests/vm/run

fresh: ## run ./demo and ./check in a bare Debian 12 root (root)
	tests/fresh/run

dist: ## build the wheel and the source archive into dist/
	.ci/prepare
	rm -rf dist
	.venv/bin/python -m hatchling build -d dist

clean: ## remove what was built; the guest's cache and .venv* stay
	rm -rf build dist .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +
