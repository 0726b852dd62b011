"""What to know before a run: cost by stage and arm (`plan`), and what is missing (`doctor`); no weights are loaded."""
