"""One small reader for each kind of data file: `path -> records and faults`, in constant memory."""
