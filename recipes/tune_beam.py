"""Choose the language model's weight and the token bonus of the beam search on held-out recordings."""

import sys

from recipes.evaluation.tune_beam import main

if __name__ == "__main__":
    sys.exit(main())
