"""Model folders (public: safetensors and JSON, as Hugging Face lays them out) and resume state (private to
a run)."""
