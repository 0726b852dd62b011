"""What a clip is worth: one file a family of measures."""
