"""What may be asked for: groups of parameters as types, the tables, sweeps.

A field says its unit and what it does; its range is its type. A default that is the paper's or the model's says so:
[C] the authors' published code, [N] a third-party note on the paper, [A] the paper's abstract, [M] the model's own
configuration; [I] or nothing, our choice. Environments write what differs from the defaults, and no more.
"""
