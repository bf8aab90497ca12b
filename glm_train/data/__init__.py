"""From data files to packed batches: records, formats, prepared examples, the plan, and the loaders."""
