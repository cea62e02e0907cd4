"""Serve recognition and enhancement: OpenAI's audio API, live text over a WebSocket, and a page at /.

    python -m asr.serve                                    # then open http://127.0.0.1:8000
    python -m asr.serve --host 0.0.0.0 --port 80           # for others; set DSPEECH_API_KEY to ask them for a key
    curl http://127.0.0.1:8000/v1/audio/transcriptions -F file=@talk.mp3 -F response_format=srt
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
from pathlib import Path

from asr.console.program import UsageError, printable, program, program_name, reason

API_KEY = "DSPEECH_API_KEY"

EPILOG = f"""environment: {API_KEY}: a key that requests have to bring (Authorization: Bearer KEY) and that the
page asks for.

exit status: 2 wrong usage or a port that is taken, 130 interrupted, 143 terminated"""


@program
def main(argv: list[str] | None = None) -> int:
    """Run the program with its arguments; returns the exit status."""
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
        return _run(args)
    except UsageError as error:
        parser.error(printable(str(error)))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program_name("asr.serve"), description=__doc__, epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = parser.add_argument
    option("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all (default: %(default)s)")
    option("--port", type=_port, default=8000, help="port to listen on; 0: any that is free (default: %(default)s)")
    option("--no_page", action="store_true", help="serve the API only")
    option("--log_level", choices=("debug", "info", "warning", "error"), default="info", help="(default: %(default)s)")

    option = parser.add_argument_group("models").add_argument
    option("--model", help="tiny, which ships, or the folder or Hub id of another model (default: tiny)")
    option("--compute_type", choices=("auto", "float32", "bfloat16", "int8"), default="auto",
           help="number format; auto is int8 where the processor is made for it (default: %(default)s)")
    option("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps ... (default: %(default)s)")
    option("--threads", type=_positive, help="CPU threads (default: what torch chooses)")
    option("--batch_size", type=_positive, default=8, help="segments recognised at once (default: %(default)s)")
    option("--enhance_model", default="adaptcrn", metavar="NAME",
           help="architecture, folder or Hub id behind /v1/audio/enhancements; none: not served (default: %(default)s)")

    option = parser.add_argument_group("limits").add_argument
    option("--max_megabytes", type=float, default=100, help="of an upload; more answers 413 (default: %(default)s)")
    option("--max_minutes", type=float, default=120, help="of a recording; more answers 413 (default: %(default)s)")
    option("--max_requests", type=_positive, default=64,
           help="recordings at once; more answers 429 and when to try again (default: %(default)s)")
    option("--max_live", type=_positive, default=4, help="live streams at once (default: %(default)s)")
    option("--upload_seconds", type=float, default=120, help="time for an upload (default: %(default)s)")
    option("--temporary_dir", type=Path, metavar="DIR",
           help="where a folder for uploads is made and removed again (default: the system's)")
    return parser


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; choose 0 to 65535")
    return int(text)


def _run(args: argparse.Namespace) -> int:
    _log_to_stderr(args.log_level)
    with _listening(args.host, args.port) as listener:
        try:
            import uvicorn

            from asr.server.app import create_app
            from asr.server.folder import temporary_folder
        except ImportError as error:
            raise UsageError(f"{error}; the server needs: pip install 'denoising-speech[serve]'") from error
        with temporary_folder(args.temporary_dir) as folder:
            app = create_app(_services(args, folder), with_page=not args.no_page)
            config = uvicorn.Config(
                app, log_config=None, access_log=args.log_level == "debug", limit_concurrency=1000,
                timeout_graceful_shutdown=10, ws_max_size=1 << 20, server_header=False, proxy_headers=False,
            )
            host = f"[{args.host}]" if ":" in args.host else args.host
            logging.getLogger("asr.serve").info("listening on http://%s:%d", host, listener.getsockname()[1])
            uvicorn.Server(config).run(sockets=[listener])
    return 0


def _log_to_stderr(level: str) -> None:
    """Log to a copy of standard error: decoders mute file descriptor 2 now and then, for the whole process."""
    stream = os.fdopen(os.dup(2), "w", buffering=1)
    logging.basicConfig(stream=stream, level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for chatty in ("httpx", "matplotlib", "multipart", "python_multipart"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _listening(host: str, port: int) -> socket.socket:
    """A socket bound before the models load, so that a port that is taken shows at once."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise UsageError(f"cannot listen on {host} port {port} ({error.strerror or error})") from None


def _services(args: argparse.Namespace, folder: Path):
    """Models and limits that the arguments ask for."""
    import torch

    from asr.loading import DEFAULT
    from asr.recogniser import DecodeOptions
    from asr.server.services import Services
    from asr.server.settings import Settings
    from asr.transcriber import Transcriber

    if args.threads:
        torch.set_num_threads(args.threads)
    settings = Settings(folder, args.max_megabytes, args.max_minutes, args.max_requests, args.max_live,
                        args.upload_seconds, os.environ.get(API_KEY) or None)
    try:
        transcriber = Transcriber.from_pretrained(
            args.model, args.device, args.compute_type, batch_size=args.batch_size,
            options=DecodeOptions(word_timestamps=True),
        )
        enhancing = None if args.enhance_model == "none" else _enhancing(args)
    except (ValueError, OSError, ImportError, RuntimeError, AssertionError) as error:
        # torch raises the last two for a device that is not there.
        raise UsageError(reason(error)) from error
    return Services(settings, transcriber, args.model or DEFAULT, enhancing, args.enhance_model)


def _enhancing(args: argparse.Namespace):
    """The denoiser in a thread of its own, with pictures where it works frame by frame."""
    from asr.loading import default_device
    from asr.server.services import EnhancingThread
    from enhance import Denoiser
    from enhance.plot import plot_enhancement

    device = default_device() if args.device == "auto" else args.device
    denoiser = Denoiser.from_pretrained(args.enhance_model, device=device)
    return EnhancingThread(denoiser, plot_enhancement if denoiser.streams else None)


if __name__ == "__main__":
    sys.exit(main())
