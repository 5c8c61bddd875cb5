"""Dialects: pure schemas and codecs, no I/O.

openai          requests of the OpenAI dialect, which is the pivot; answers: its answers; embeddings, rerank: those
fields          which request fields are policy actions
strict          what two readers could understand differently is refused
opening, asked  how a prompt begins, and what it asks: what placement and learning read
feedback        the body of `POST /v1/feedback`
errors          an error in the shape of the dialect that was spoken
sse, stencil    event streams, split under any chunking; events that differ in their text alone
mend            streams that are not quite OpenAI's
unstream, restream    a streamed answer as a whole one, and the other way round
checks, conform    the checks of a cascade; JSON held against a schema
judge           what a judge of answers is asked, and what it says
speech          how a source is spoken to that speaks otherwise
anthropic/, ollama/, responses/    the other dialects, as translations
"""
