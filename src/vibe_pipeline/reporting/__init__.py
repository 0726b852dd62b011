"""The page that says what was run, what came out, and what cannot be told."""
