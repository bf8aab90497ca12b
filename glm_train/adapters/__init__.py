"""LoRA adapters through `peft`: added to our own modules, saved in PEFT's format, merged."""
