"""Training losses, and what a sum of token losses is divided by."""
