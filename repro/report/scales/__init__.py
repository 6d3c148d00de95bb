"""What is done at which scale: the settings beside the paper's, and the results of every scale."""
