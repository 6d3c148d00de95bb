"""How far a study is, from its files alone: the board, `status`, and the end of a call."""
