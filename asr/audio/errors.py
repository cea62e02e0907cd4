"""The one error of the audio front end."""


class AudioError(ValueError):
    """An input that cannot be used as audio; the message is one line that starts with its name."""
