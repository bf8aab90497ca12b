"""How one model's step is spread over memory, kernels and devices."""
