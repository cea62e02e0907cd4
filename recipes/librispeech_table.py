"""The LibriSpeech results table: recognisers on dev and test, clean and other, in one command."""

import sys

from recipes.evaluation.librispeech_table import main

if __name__ == "__main__":
    sys.exit(main())
