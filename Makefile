# Every job first sets the environment up (.venv, with the versions of requirements/constraints.txt). All of it is done
# by bootstrap.py, which works without make, too.
#   another Python:     make demo PYTHON=python3.12
#   further arguments:  make test ARGS="-k frechet"
#   fuzzing for longer: make fuzz MINUTES=60
PYTHON ?= python3
ARGS ?=
MINUTES ?= 5

JOBS := demo test test-slow test-gpu lint fuzz reproduce-detector bench setup clean

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help $(JOBS)

fuzz: ARGS += --minutes $(MINUTES)

help $(JOBS):
	@command -v "$(PYTHON)" >/dev/null || { echo "error: no command $(PYTHON): install Python 3.11, 3.12 or 3.13, \
or name one: make $@ PYTHON=/path/to/python" >&2; exit 2; }
	@"$(PYTHON)" bootstrap.py $@ $(ARGS)
