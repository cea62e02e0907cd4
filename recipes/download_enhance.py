"""Download VoiceBank-DEMAND (Valentini-Botinhao 2017, CC BY 4.0) and unpack it."""

import sys

from recipes.data.download_enhance import main

if __name__ == "__main__":
    sys.exit(main())
