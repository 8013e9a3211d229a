# The work is done by scripts/, which need no make.
.PHONY: build test quick lint clean
build: ; ./scripts/build
test: ; ./scripts/test
quick: ; ./scripts/test --quick
lint: ; ./scripts/lint
clean: ; rm -rf dist
