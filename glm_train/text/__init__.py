"""Text to token ids: the tokenizer, the chat template, and chats with their training labels."""
