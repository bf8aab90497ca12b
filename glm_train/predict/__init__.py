"""Answers of a trained model for a file of records, and its scores on labelled ones."""
