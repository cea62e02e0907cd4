# Each line sets up what it needs in .venv first; only Python 3.11+, git and make must be there.
#   make transcribe                     the sample recording
#   make transcribe AUDIO=talk.mp3      any recording (AUDIO="my talk.mp3")
#   make serve                          the server and its page, http://127.0.0.1:8000
#   make serve OPTIONS='--port 9000'    with options of python -m asr.serve
#   make test                           the test suite
#   make lint                           ruff
PYTHON ?= python3
AUDIO ?= asr/sample.flac
export AUDIO  # through the environment, so that spaces and quotes of a name stay what they are
BIN := .venv/bin

.PHONY: transcribe serve test lint

transcribe: .venv/core
	@$(BIN)/python -m asr.transcribe "$$AUDIO"

serve: .venv/serve
	@$(BIN)/python -m asr.serve $(OPTIONS)

test: .venv/test
	$(BIN)/python -m pytest

lint: .venv/test
	$(BIN)/ruff check

.venv/core: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/serve: .venv/core
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[serve]'
	touch $@

.venv/test: .venv/core
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@
