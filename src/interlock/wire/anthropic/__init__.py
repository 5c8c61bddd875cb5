"""Anthropic's dialect (Messages API), pure: no I/O.

    callers that speak it    `requests` reads what they ask into the pivot; `answers`, `errors` and `models` write
    sources that speak it    `ask` says a checked request in it, `listen` hears the answer, `speech` joins both

Source: Anthropic API reference, "Messages", "Streaming messages", "Count tokens", "Errors".
"""
