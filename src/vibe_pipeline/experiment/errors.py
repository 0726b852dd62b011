"""What is raised where parameters cannot be used; in a file of its own, as every command imports the loader's errors."""


class ParameterError(ValueError):
    """Parameters that cannot be used; the message names the file or the field, and the value."""
