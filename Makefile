# PORT and PY_PORT choose the ports of `make serve`; PYO3_PYTHON the Python that is embedded.

export LANG ?= C.UTF-8
PYTHON := $(or $(PYO3_PYTHON),python3)

.DEFAULT_GOAL := help
.PHONY: help serve test check build lint dialyzer newest bench soak clean

help: ## say what can be made
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

serve: ## run the two echo servers, in Elixir and in Python, until Ctrl-C
	@script/setup serve
	@MIX_ENV=prod ELIXIR_ERL_OPTIONS="$$ELIXIR_ERL_OPTIONS +Bd" mix compile
	@exec env MIX_ENV=prod ELIXIR_ERL_OPTIONS="$$ELIXIR_ERL_OPTIONS +Bi" $(PYTHON) script/serve mix run --no-halt examples/serve.exs

test: ## lint and run every test, installing what is missing
	@script/setup test
	@script/lint
	@script/unit

check: ## make test, and Dialyzer: what CI runs
	@script/setup check
	@script/lint
	@script/unit
	@script/dialyzer

build: ## compile for production
	@script/setup serve
	@MIX_ENV=prod mix compile

lint: ## check formatting and run the linters
	@script/setup test
	@script/lint

dialyzer: ## check the types
	@script/setup check
	@script/dialyzer

newest: ## make check on the newest Elixir, OTP and Python, in a chroot (root on Debian)
	@script/newest make check

bench: ## measure against gen_tcp, ssl, asyncio and uvloop (half an hour)
	@script/setup bench
	@bench/run.sh

soak: ## run the leak and load tests at full size, then all tests ROUNDS times (20)
	@script/setup test
	@script/soak $(or $(ROUNDS),20)

clean: ## remove what was built
	rm -rf _build .ruff_cache priv/native native/reactor_nif/target bench/load/target
