"""What may be asked for: groups of parameters as types, the tables, sweeps."""
