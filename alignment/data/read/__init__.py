"""Files, folders, URLs and hub data sets as raw rows."""
