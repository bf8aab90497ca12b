"""The one table of tolerances, fp32 on a CPU unless named otherwise."""

LOGITS = 1e-5  # largest difference, as a share of the largest expected value where that is above 1
LOSS = 1e-6  # of the mean over tokens, as a share of it where it is above 1
DOCUMENT_LOSS = 1e-5  # of the mean over three documents, which is as near as their logits
GRADIENT = 1e-4  # largest difference over the largest value of the same tensor
ACCUMULATION = 1e-6  # the same, between ways of cutting one step into microbatches
