"""Zero-shot accuracy and attack success rate, of our models and of other people's."""
