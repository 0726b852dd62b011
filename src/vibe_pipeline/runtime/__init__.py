"""How a process runs: deadline, locks, torchrun, Ray."""
