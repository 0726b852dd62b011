"""Making clips: prompts, native clips, the second pass, files."""
