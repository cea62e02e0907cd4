"""How every program begins, ends and speaks.

Exit statuses: 0 all good, 1 some inputs failed and the rest is done, 2 wrong usage, 130 interrupted, 143 terminated.
Results go to standard output, one line for each problem to standard error; no tracebacks for what a user can mend.
"""

from __future__ import annotations

import codecs
import errno
import functools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

FAILED, INTERRUPTED, TERMINATED = 1, 130, 143


class UsageError(ValueError):
    """The arguments ask for what cannot be; the message says why and what would do."""


class OutputError(OSError):
    """Standard output takes no more."""


def program_name(module: str) -> str:
    """How the user called this program: `dspeech COMMAND`, or `python -m MODULE`."""
    return sys.argv[0] if sys.argv[0].startswith("dspeech ") else f"python -m {module}"


def program(main: Callable[..., int]) -> Callable[..., int]:
    """Decorator of `main(argv=None) -> exit status`: interrupts, signals, closed and full pipes end in one line."""

    @functools.wraps(main)
    def run(*arguments, **options) -> int:
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # its retries without a network are not worth a line each
        if not (sys.stderr and sys.stderr.isatty()):
            os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        with _terminable(), _open_streams():
            try:
                try:
                    return main(*arguments, **options)
                finally:
                    emit("")  # what was printed may still wait in a buffer, also when argparse ends the program
            except KeyboardInterrupt:
                complain("interrupted")
                return INTERRUPTED
            except BrokenPipeError:
                complain("standard output: closed by its reader, the rest is not written")
            except OSError as error:
                complain(str(error) if isinstance(error, OutputError) else reason(error))
            _abandon_output()
            return FAILED

    return run


def emit(text: str) -> None:
    """Write a result to standard output, at once.

    Raises:
        OutputError: it is full or closed. A reader that went away is a BrokenPipeError.
    """
    with _output_errors():
        sys.stdout.write(text)
        sys.stdout.flush()


def emit_bytes(data: bytes) -> None:
    """`emit` for results that are no text."""
    with _output_errors():
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


@contextmanager
def _output_errors() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        closed = error.errno == errno.EBADF
        raise OutputError(f"standard output: {'is closed' if closed else error.strerror}") from None


def complain(message: object) -> None:
    """One line on standard error, above a progress bar that may be there."""
    line = printable(str(message).strip()) + "\n"
    if "tqdm" in sys.modules:
        sys.modules["tqdm"].tqdm.write(line, file=sys.stderr, end="")
    else:
        sys.stderr.write(line)


def printable(text: str) -> str:
    """The text in one line: control characters as their escapes, such as \\t and \\n."""
    return "".join(c if c.isprintable() or c == " " or _is_raw(c) else repr(c)[1:-1] for c in text)


def json_text(value: object, indent: int | None = None) -> str:
    """JSON in UTF-8; bytes of file names that are no text become escapes, which JSON readers give back."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return text.encode("utf-8", "backslashreplace").decode("utf-8") + "\n"


def reason(error: BaseException) -> str:
    """What an exception says, in one line; of errors of the operating system the file and the cause."""
    if isinstance(error, OSError) and error.strerror:
        return f"{os.fspath(error.filename)}: {error.strerror}" if error.filename else error.strerror
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _is_raw(character: str) -> bool:
    """Whether this stands for a byte of a file name that is no text (PEP 383)."""
    return "\udc80" <= character <= "\udcff"


def _as_named(error: UnicodeError) -> tuple[bytes, int]:
    """Encode what an encoding lacks: raw bytes of file names as they are, other characters as escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    piece = error.object[error.start : error.end]
    encoded = (bytes([ord(c) - 0xDC00]) if _is_raw(c) else c.encode("ascii", "backslashreplace") for c in piece)
    return b"".join(encoded), error.end


codecs.register_error("as_named", _as_named)


@contextmanager
def _open_streams() -> Iterator[None]:
    """All three standard streams open, and able to print any file name.

    A descriptor that the caller closed would be given to the next file that is opened, and what libraries print would
    land there. Standard input is then empty, and writing to standard output an error.
    """
    for number, (name, mode) in enumerate((("stdin", os.O_RDONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY))):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, mode)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, open(number, "r" if name == "stdin" else "w", closefd=False))
    before = {stream: stream.errors for stream in (sys.stdout, sys.stderr) if hasattr(stream, "reconfigure")}
    for stream in before:
        stream.reconfigure(errors="as_named")
    try:
        yield
    finally:
        for stream, errors in before.items():
            if not stream.closed:
                stream.reconfigure(errors=errors)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind the stack, so that temporary files go; in the main thread only, as Python has it."""
    kinds = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        kinds = []
    kinds = [kind for kind in kinds if signal.getsignal(kind) == signal.SIG_DFL]

    def leave(number, frame):
        raise SystemExit(128 + number)

    for kind in kinds:
        signal.signal(kind, leave)
    try:
        yield
    finally:
        for kind in kinds:
            signal.signal(kind, signal.SIG_DFL)


def _abandon_output() -> None:
    """Point standard output nowhere: what its buffer still holds must not fail once more when the process ends."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # a stream without a descriptor, as tests have
        pass
