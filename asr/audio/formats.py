"""Names of audio files."""

AUDIO_SUFFIXES = frozenset(
    ".aac .ac3 .aif .aifc .aiff .amr .au .avi .caf .flac .flv .m4a .m4b .mka .mkv .mov .mp2 .mp3 .mp4 "
    ".mpeg .mpg .oga .ogg .opus .ra .snd .spx .w64 .wav .webm .wma .wmv".split()
)
