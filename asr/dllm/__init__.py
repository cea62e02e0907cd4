"""The denoising decoder: canvas, commit rules, loop, caches, slot search, network and the view of a canvas."""
