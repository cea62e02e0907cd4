# Each line sets up what it needs in .venv first; only Python 3.11+, git and make must be there.
#   make transcribe                     the sample recording
#   make transcribe AUDIO=talk.mp3      any recording (AUDIO="my talk.mp3")
#   make test                           the test suite
#   make lint                           ruff
PYTHON ?= python3
AUDIO ?= asr/sample.flac
export AUDIO  # through the environment, so that spaces and quotes of a name stay what they are
BIN := .venv/bin

.PHONY: transcribe test lint

transcribe: .venv/core
	@$(BIN)/python -m asr.transcribe "$$AUDIO"

test: .venv/test
	$(BIN)/python -m pytest

lint: .venv/test
	$(BIN)/ruff check

.venv/core: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/test: .venv/core
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@
