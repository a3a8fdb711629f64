"""From raw rows to a prepared set, with an account of every row."""
