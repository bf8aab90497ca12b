"""GLM in plain PyTorch. Module and parameter names equal the Hugging Face keys, so weights need no key map."""
