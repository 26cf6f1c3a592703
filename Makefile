# Every job first sets the environment up (.venv, with the versions of requirements/constraints.txt; for `detect` and
# `serve` a small one without PyTorch, .venv-light). All of it is done by bootstrap.py, which works without make, too.
#   a verdict:          make detect ARGS=photo.jpg
#                       (make ends well with a FAKE, too; python detect.py exits with 1 then)
#   another Python:     make demo PYTHON=python3.12
#   further arguments:  make test ARGS="-k frechet"
#   fuzzing for longer: make fuzz MINUTES=60
PYTHON ?= python3
ARGS ?=
MINUTES ?= 5

JOBS := detect serve demo test test-slow test-gpu lint fuzz licences audit reproduce-detector bench setup wheel clean

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help $(JOBS)

fuzz: ARGS += --minutes $(MINUTES)

help $(JOBS):
	@command -v "$(PYTHON)" >/dev/null || { echo "error: no command $(PYTHON): install Python 3.11, 3.12 or 3.13, \
or name one: make $@ PYTHON=/path/to/python" >&2; exit 2; }
	@"$(PYTHON)" bootstrap.py $@ $(ARGS) || { code=$$?; test "$@ $$code" = "detect 1" || exit $$code; }
