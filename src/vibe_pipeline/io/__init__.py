"""The ground: files, keys, video, tables, errors."""
