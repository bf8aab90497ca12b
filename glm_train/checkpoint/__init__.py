"""Model folders (public: Hugging Face's safetensors and JSON) and run states (private to a run)."""
