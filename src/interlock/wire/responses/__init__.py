"""OpenAI's Responses API: its requests as requests of the pivot (chat completions), and the pivot's answers as its own.

`request` reads requests and `items` what a conversation is made of; `answer` is a response, `stream` its events.

Source: OpenAI API reference, "Responses" and "Streaming events". Pure: what a conversation was before this request is
put into the request's `input` by the gateway (`interlock.gateway.turn`), so that here a request is always whole.
"""
