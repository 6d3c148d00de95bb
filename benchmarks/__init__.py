"""How fast the project is, against the straightforward way and against the machine's limits: `make
bench`.
"""
