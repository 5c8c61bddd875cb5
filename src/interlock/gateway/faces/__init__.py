"""What callers speak: each face reads the requests of one dialect and writes answers and errors in it.

`base` is the shape of a face; `openai`, `anthropic`, `responses` and `ollama` are the dialects, `ollama_pages` what
Ollama's clients ask beside inference.
"""
