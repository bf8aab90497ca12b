"""Tags of words: their schemes, their decoding from scores, and windows over long documents. No torch."""
