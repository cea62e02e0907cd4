"""`dspeech`: all programs behind one command, `dspeech transcribe talk.mp3` for `python -m asr.transcribe talk.mp3`."""

from __future__ import annotations

import sys
from importlib import import_module

COMMANDS = {
    "transcribe": ("asr.transcribe", "recordings to text and subtitles"),
    "live": ("asr.live.__main__", "captions while someone speaks"),
    "denoise": ("enhance.denoise", "noisy speech to clean speech"),
    "correct": ("dlm.correct", "correct the text of any recogniser"),
    "score": ("asr.score", "word error rates"),
    "serve": ("asr.serve", "a server with OpenAI's interface, and a page"),
    "train": ("recipes.train", "train any of the models"),
}


def main(argv: list[str] | None = None) -> int:
    """Run a command with its arguments; returns the exit status."""
    command, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if command in ("-h", "--help"):
        print(usage())
        return 0
    if command == "--version":
        from importlib.metadata import version

        print(f"dspeech {version('denoising-speech')}")
        return 0
    if command not in COMMANDS:
        print(f"dspeech: {command!r} is no command; choose one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    # Programs name themselves by this in their usage, and Hydra reads its arguments here.
    sys.argv = [f"dspeech {command}", *arguments]
    return import_module(COMMANDS[command][0]).main()


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {help_text}" for name, (_, help_text) in COMMANDS.items()]
    return "\n".join(
        ["usage: dspeech COMMAND ...", "", *lines, "", "dspeech COMMAND --help explains each; dspeech --version"]
    )


if __name__ == "__main__":
    sys.exit(main())
