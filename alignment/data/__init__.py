"""From raw rows to prepared data sets: sources, formats, filters, deduplication, splits."""
