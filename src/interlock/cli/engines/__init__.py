"""Engines that Interlock runs itself: `interlock source run vllm|llamacpp`.

weights      which files a model is, and the digest that is its version
launch       the command and environment of an engine (pure)
restarts     when an engine is started again, and when it is given up (pure)
keeper       the process between supervisor and engine: ends all of the engine when either of them goes
llamacpp     the engine process of llama.cpp, with its server inside
process      an engine with its keeper and its log
probe        whether it answers, whom it answers, and what it works on
registry     the source in the admin API, and what is reported of the engine
supervise    the foreground process that puts these together
"""
