"""Against real vLLM: two instances of the CPU build, a real `interlock up` before them. `make test-vllm` runs these."""
