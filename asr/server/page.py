"""The page at /: transcribe, clean and watch the denoising decoder, in a browser and without internet.

Imports gradio, so nothing but the app that wants a page imports this.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import gradio as gr
from fastapi import FastAPI

from asr.audio.errors import AudioError
from asr.audio.io import duration, load, save
from asr.server import canvas_view, transcript_view
from asr.server.errors import as_api_error
from asr.server.formats import warnings
from asr.server.security import is_key
from asr.server.services import Services

TITLE = "Denoising speech"
PLAYABLE = frozenset(".aac .flac .m4a .mp3 .mp4 .oga .ogg .opus .wav .webm".split())  # in browsers
CLEAN_EVERY, KEEP = 600, 7200  # seconds: how often what the page has made is looked at, how long it is kept


def mount(app: FastAPI, services: Services) -> FastAPI:
    """Add the page to an app, behind its other routes."""
    folder = services.settings.folder
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "page")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # nothing leaves the machine
    os.environ.setdefault("MPLCONFIGDIR", str(folder / "matplotlib"))
    key = services.settings.api_key
    page = _Page(services).build()
    page.queue(default_concurrency_limit=services.settings.max_requests)
    return gr.mount_gradio_app(
        app, page, path="/", max_file_size=services.settings.max_bytes, ssr_mode=False, footer_links=[],
        css=transcript_view.STYLE + canvas_view.STYLE, allowed_paths=[str(folder)],
        auth=(lambda name, password: is_key(password, key)) if key else None,
        auth_message="Any name will do; the password is the API key of this server." if key else None,
    )


class _Page:
    """The tabs and what their buttons do."""

    def __init__(self, services: Services):
        self.services = services

    def build(self):
        """The page as gradio's blocks."""
        with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(CLEAN_EVERY, KEEP)) as page:
            gr.Markdown(f"# {TITLE}\nRecordings stay on the machine that serves this page.")
            with gr.Tab("Transcribe"):
                self._transcribe_tab()
            if self.services.enhancing:
                with gr.Tab("Enhance"):
                    self._enhance_tab()
            with gr.Tab("Denoising decoder"):
                self._canvas_tab()
        return page

    def _transcribe_tab(self) -> None:
        audio = _chooser("Recording", "recording")
        start, stop = _start_and_stop("Transcribe", "transcribe")
        result = gr.HTML(js_on_load=transcript_view.SCRIPT, elem_id="result", min_height=80)
        work = start.click(self.transcribe, audio, result)
        stop.click(None, cancels=[work])

    def _enhance_tab(self) -> None:
        audio = _chooser("Noisy recording", "noisy")
        start, stop = _start_and_stop("Enhance", "enhance")
        with gr.Row():
            before = gr.Audio(label="Before", interactive=False, buttons=[], elem_id="before")
            after = gr.Audio(label="After", interactive=False, buttons=["download"], elem_id="after")
        picture = gr.Image(
            label="Spectrograms", show_label=False, interactive=False, buttons=["download", "fullscreen"],
            elem_id="spectrograms",
        )  # fmt: skip
        work = start.click(self.enhance, audio, [before, after, picture])
        stop.click(None, cancels=[work])

    def _canvas_tab(self) -> None:
        gr.Markdown("The decoder starts from the draft of the CTC branch, masks what it is unsure of and settles the "
                    "masks in a few parallel passes. Shown are the first seconds of speech.")
        audio = _chooser("Recording", "canvas_recording")
        start, stop = _start_and_stop("Denoise", "denoise")
        canvas = gr.HTML(elem_id="canvas", min_height=80)
        work = start.click(self.denoise, audio, canvas)
        stop.click(None, cancels=[work])

    async def transcribe(self, path: str | None, progress=gr.Progress()) -> AsyncIterator[str]:
        """The transcript as it grows; in the end with player and files."""
        seconds, segments = duration(path) if path else None, []
        with _told_to_the_user(), self.services.admission.enter():
            source = _chosen(path)
            queue = self.services.worker.transcribe(source, source.name, self.services.settings.max_seconds)
            async with queue as job:
                progress(0, desc="Listening")
                async for segment in job:
                    segments.append(segment)
                    yield transcript_view.as_html(job.transcript(segments))
                    if seconds:
                        progress(min(1.0, segment.end / seconds), desc=f"{segment.end:.0f} of {seconds:.0f} s")
                playable = await asyncio.to_thread(_playable, source)
                url = f"gradio_api/file={quote(str(playable))}"
                transcript = job.transcript(segments)
                for warning in warnings(transcript):
                    gr.Warning(warning)
                yield transcript_view.as_html(transcript, url, source.stem)

    async def enhance(self, path: str | None, progress=gr.Progress()) -> AsyncIterator[tuple]:
        """The recording before and after, and a picture of both."""
        seconds = duration(path) if path else None
        settings, enhancing = self.services.settings, self.services.enhancing
        with _told_to_the_user(), self.services.admission.enter():
            source = _chosen(path)

            def show(done: float) -> None:
                progress(min(1.0, done / seconds) if seconds else 0, desc=f"{done:.0f} s")

            with tempfile.TemporaryDirectory(prefix="request-", dir=settings.folder) as folder:
                target = Path(folder) / f"{source.stem} enhanced.wav"
                await enhancing.enhance(source, target, source.name, settings.max_seconds, show)
                players = str(source), str(target)  # copied by gradio before it asks for more
                yield *players, None
                picture = await enhancing.draw(source, Path(folder) / "spectrograms.png")
                yield *players, picture and str(picture)

    async def denoise(self, path: str | None) -> AsyncIterator[str]:
        """The canvas, pass by pass."""
        with _told_to_the_user(), self.services.admission.enter():
            source = _chosen(path)
            wave = await asyncio.to_thread(canvas_view.first_speech, source, self.services.transcriber)
            recogniser = self.services.transcriber.recogniser
            await asyncio.to_thread(canvas_view.prepare, recogniser)
            work = self.services.worker.call(lambda: canvas_view.denoised(recogniser, wave))
            rows = canvas_view.rows(await asyncio.wrap_future(work), recogniser.vocabulary)
            for count in range(1, len(rows) + 1):
                yield canvas_view.as_html(rows[:count])
                await asyncio.sleep(canvas_view.PACE)


def _chooser(label: str, name: str) -> gr.Audio:
    """Where a recording is dropped or recorded."""
    return gr.Audio(label=label, sources=["upload", "microphone"], type="filepath", buttons=[], elem_id=name)


def _start_and_stop(label: str, name: str) -> tuple[gr.Button, gr.Button]:
    with gr.Row():
        return gr.Button(label, variant="primary", scale=4, elem_id=name), gr.Button("Stop", scale=1)


@contextmanager
def _told_to_the_user() -> Iterator[None]:
    """Errors of the work as messages on the page."""
    try:
        yield
    except Exception as error:
        raise gr.Error(str(as_api_error(error))) from None


def _chosen(path: str | None) -> Path:
    if not path:
        raise AudioError("Choose a recording first: drop a file or record one.")
    return Path(path)


def _playable(source: Path) -> Path:
    """The recording in a format that browsers play."""
    if source.suffix.lower() in PLAYABLE:
        return source
    target = source.with_suffix(".wav")
    save(target, load(source))
    return target
