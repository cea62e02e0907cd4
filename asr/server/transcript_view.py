"""A transcript for the page: words that colour by confidence, follow the playback and seek, and its files."""

from __future__ import annotations

from html import escape
from urllib.parse import quote

from asr.output.transcript import Segment, Transcript
from asr.output.writers import WRITERS, LineLimits

SURE = 0.9  # confidence from which on a word has no colour
STRONGEST = 0.55  # opacity of the colour at confidence 0
MEDIA_TYPES = {"vtt": "text/vtt", "json": "application/json", "tsv": "text/tab-separated-values"}

STYLE = """
.transcript audio { width: 100%; margin-bottom: .8em }
.transcript .segment { display: flex; gap: 1em; line-height: 1.9; margin: .2em 0 }
.transcript .time { flex: 0 0 3em; opacity: .55; font-variant-numeric: tabular-nums; text-align: right;
  cursor: pointer }
.transcript .word { border-radius: .25em; padding: .1em .15em; cursor: pointer }
.transcript .word:hover { outline: 1px solid currentColor }
.transcript .word.said { background: #2563eb !important; color: white }
.transcript .downloads { display: flex; flex-wrap: wrap; gap: .5em; align-items: center; margin-top: 1em }
.transcript .downloads a { border: 1px solid currentColor; border-radius: .4em; padding: .15em .7em; opacity: .8;
  color: inherit; text-decoration: none }
.transcript .downloads a:hover { opacity: 1 }
.transcript .legend { opacity: .65; font-size: .85em; margin-top: .8em }
"""

# Media events do not bubble, so they are caught on their way down; the word that is said is found by halving.
SCRIPT = """
element.addEventListener('click', event => {
  const target = event.target.closest('[data-start]'), audio = element.querySelector('audio');
  if (target && audio) { audio.currentTime = Number(target.dataset.start); audio.play(); }
});
element.addEventListener('timeupdate', event => {
  const words = element.getElementsByClassName('word'), time = event.target.currentTime;
  let low = 0, high = words.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (Number(words[middle].dataset.start) <= time) low = middle + 1; else high = middle;
  }
  for (const said of element.querySelectorAll('.said')) said.classList.remove('said');
  if (low && time < Number(words[low - 1].dataset.end)) words[low - 1].classList.add('said');
}, true);
"""


def as_html(transcript: Transcript, audio_url: str | None = None, stem: str = "transcript") -> str:
    """The transcript as HTML.

    Args:
        transcript: what to show, with word times.
        audio_url: where the recording can be played from; None while the transcript is not complete, which then has no
            player and no files.
        stem: name of the files without their endings.
    """
    segments = "\n".join(_segment(segment) for segment in transcript.segments)
    if audio_url is None:
        return f'<div class="transcript">{segments}</div>'
    if not segments:
        segments = "<p>No speech was found in this recording.</p>"
    legend = ('<p class="legend">The stronger the colour, the less sure the recogniser is of the word. '
              "Click a word to hear it.</p>")
    player = f'<audio controls src="{escape(audio_url)}"></audio>'
    return f'<div class="transcript">{player}\n{segments}\n{_downloads(transcript, stem)}\n{legend}</div>'


def _segment(segment: Segment) -> str:
    minutes, seconds = divmod(int(segment.start), 60)
    if segment.words:
        text = " ".join(_word(word) for word in segment.words)
    else:
        text = escape(segment.text)
    clock = f'<span class="time" data-start="{segment.start:.3f}">{minutes}:{seconds:02d}</span>'
    return f'<div class="segment">{clock}<span>{text}</span></div>'


def _word(word) -> str:
    opacity = STRONGEST * max(0.0, 1 - word.confidence / SURE)
    return (f'<span class="word" data-start="{word.start:.3f}" data-end="{word.end:.3f}" '
            f'style="background:rgb(245 130 30/{opacity:.2f})" title="{word.confidence:.0%} sure">'
            f"{escape(word.text)}</span>")


def _downloads(transcript: Transcript, stem: str) -> str:
    """Links that hold the files themselves, so that none is left on the server."""
    links = []
    for name, write in WRITERS.items():
        data = quote(write(transcript, LineLimits()))
        kind = MEDIA_TYPES.get(name, "text/plain")
        links.append(f'<a download="{escape(stem)}.{name}" href="data:{kind};charset=utf-8,{data}">{name}</a>')
    return f'<div class="downloads"><span>Download</span>{"".join(links)}</div>'
