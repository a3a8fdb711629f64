"""From raw rows to prepared sets: sources, formats, filters, splits, encoding, practice."""
