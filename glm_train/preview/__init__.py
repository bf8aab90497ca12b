"""What a run would train on, shown before it trains."""
