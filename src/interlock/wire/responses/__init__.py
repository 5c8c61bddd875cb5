"""OpenAI's Responses API: its requests as requests of the pivot (chat completions), and the pivot's answers as its own.

Source: OpenAI API reference, "Responses" and "Streaming events". Pure: what a conversation was before this request is
put into the request's `input` by the gateway (`interlock.gateway.responses`), so that here a request is always whole.
"""
