"""What is raised where parameters cannot be used; alone here, because every command imports it with the loader."""


class ParameterError(ValueError):
    """Parameters that cannot be used; the message names the file or the field, and the value."""
