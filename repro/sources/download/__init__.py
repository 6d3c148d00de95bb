"""Downloads of CC3M and CC12M from a list of addresses or a mirror."""
