"""Write the result as GGUF, then read it back and check every byte count against the plan."""
