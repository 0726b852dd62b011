"""VBench, driven and not rewritten."""
