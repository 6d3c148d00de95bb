"""Is what a study left on disk still what it made?"""
