# make demo    bring everything up on this machine, compress a model on real data, show the numbers
# make test    all tests
# make serve   bring everything up, and keep it up until Ctrl-C; files are in ./secateur-data
# make compare prune the demo's network by every criterion and algorithm, and compare (15 minutes)
# make smallest find the smallest model within one point of the demo's accuracy (a minute)
# make quantize prune the demo's network by half and store it as int8, without training
# make tensorflow let this machine's worker read TensorFlow's SavedModels, too (1.6 GB)
# make clean   remove what was installed and built; ./secateur-data stays
#
# Nothing is needed but python3 (3.11 or later) and make. The first call installs into ./.venv.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo test serve compare smallest quantize tensorflow install clean

demo: $(INSTALLED)
	$(BIN)/python -m stack --temporary -- $(BIN)/python examples/digits.py

test: $(INSTALLED)
	$(BIN)/python -m pytest -n auto --dist loadscope $(TEST_ARGS)

serve: $(INSTALLED)
	$(BIN)/python -m stack

compare: $(INSTALLED)
	$(BIN)/python -m stack --temporary -- $(BIN)/python -m benchmarks.criteria $(COMPARE_ARGS)

smallest: $(INSTALLED)
	$(BIN)/python -m stack --temporary -- $(BIN)/python -m benchmarks.smallest

quantize: $(INSTALLED)
	$(BIN)/python -m stack --temporary -- $(BIN)/python -m benchmarks.fewer_bits

tensorflow: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt -e '.[tensorflow]'

install: $(INSTALLED)

# Only `secateur` is installed as a package. The rest is run from this folder.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Secateur needs Python 3.11 or later, and '$(PYTHON)' is not:" \
			"install it, or name another: make PYTHON=/path/to/python3.12"; exit 1; } >&2
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
