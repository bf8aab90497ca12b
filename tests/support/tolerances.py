"""The one table of tolerances, fp32 on a CPU unless named otherwise."""

LOGITS = 1e-5  # largest absolute difference
LOSS = 1e-6  # absolute
GRADIENT = 1e-4  # largest difference over the largest value of the same tensor
ACCUMULATION = 1e-6  # the same, between ways of cutting one step into microbatches
