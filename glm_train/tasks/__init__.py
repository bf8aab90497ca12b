"""LightningModules: what one optimizer step is, and what validation measures."""
