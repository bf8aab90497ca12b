"""One small file for each layout of a chat record: `value -> Conversation`. The registry is `data/chat_formats.py`."""
