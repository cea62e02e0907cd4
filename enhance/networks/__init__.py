"""Networks that enhance: the adaptive convolution layer, AdaptCRN, GTCRN."""
