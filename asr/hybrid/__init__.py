"""The hybrid recogniser: speech encoder and text decoder that start from Whisper, and a CTC branch."""
