"""Data: public data sets, the one reader of your own files, cleaning, near copies and splits."""
