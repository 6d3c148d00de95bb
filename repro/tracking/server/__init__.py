"""An optional database of the records, and Omniboard over it."""
