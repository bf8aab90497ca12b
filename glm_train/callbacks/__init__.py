"""What happens around the steps: one callback a file."""
