"""From texts to what an encoder reads: normalisation, the limit of its tokens, windows of long texts."""
