"""`kedro vibe …`: one file a purpose; commands only parse, the rooms below do the work."""
