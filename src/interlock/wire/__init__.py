"""Dialects: pure schemas and codecs, no I/O.

`openai` reads requests and answers of the OpenAI dialect; `fields` says which request fields are policy actions;
`sse` splits event streams under any chunking; `errors` gives an error the shape of the dialect that was spoken.
"""
