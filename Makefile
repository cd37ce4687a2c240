# Both commands work on a fresh machine: they create .venv and install what is needed first.
# Without make: bash scripts/demo.sh, bash scripts/test.sh.
.PHONY: help setup demo test docs pictures clean

help:
	@echo "make demo      set up, then register and fuse the built-in infrared-visible pair"
	@echo "make test      set up, then lint, type check and test (napari tests under Xvfb)"
	@echo "make docs      set up, then build the documentation site in build/site"
	@echo "make setup     only create .venv and install into it"
	@echo "make pictures  draw the pictures of the README and the documentation again"
	@echo "make clean     remove .venv and what the demo and the tools wrote"

setup:
	@bash scripts/bootstrap.sh

demo:
	@bash scripts/demo.sh

test:
	@bash scripts/test.sh

docs: setup
	@.venv/bin/mkdocs build --strict

pictures: setup
	@if command -v xvfb-run >/dev/null; then \
		xvfb-run -a -s "-screen 0 1600x1200x24" .venv/bin/python scripts/make_pictures.py; \
	else .venv/bin/python scripts/make_pictures.py; fi

clean:
	rm -rf .venv demo-output build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .benchmarks
	rm -rf src/*.egg-info
