"""Sacred around every run: the records, their observers, and the servers that show them."""
