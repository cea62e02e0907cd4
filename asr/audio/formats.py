"""Names of audio files."""

import os
from pathlib import Path

AUDIO_SUFFIXES = frozenset(
    ".3ga .3gp .aac .ac3 .aif .aifc .aiff .amr .ape .au .avi .caf .dts .eac3 .flac .flv .m2ts .m4a .m4b .m4v .mka .mkv "
    ".mov .mp2 .mp3 .mp4 .mpeg .mpg .mts .oga .ogg .ogv .opus .ra .rm .snd .spx .ts .tta .w64 .wav .webm .wma .wmv "
    ".wv".split()
)


def is_recording(path: Path) -> bool:
    """Whether a file in a folder is one; hidden ones, as other systems leave there (._talk.wav), are not."""
    return is_audio(path) and not path.name.startswith(".") and path.is_file()


def is_audio(name: str | os.PathLike) -> bool:
    """Whether the extension is that of a recording."""
    return Path(name).suffix.lower() in AUDIO_SUFFIXES
