"""LoRA adapters through `peft`: added to our own modules, saved in PEFT's format, merged."""

import logging

# It advises, whenever peft is imported on a CPU, to install a package that loads code from a hub.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
