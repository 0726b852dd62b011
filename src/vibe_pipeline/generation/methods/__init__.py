"""How an arm's clips can be made."""
