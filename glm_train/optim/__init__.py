"""From gradients to new weights: parameter groups, optimizers, schedules, clipping."""
