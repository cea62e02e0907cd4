"""Fit word confidences to how often words are right, and say how well that holds for other speakers."""

import sys

from recipes.evaluation.calibrate import main

if __name__ == "__main__":
    sys.exit(main())
