"""What a GPU must show before days of it are spent: `make gpu-check`, about 25 minutes.

Images are blocks of colour and models random: no data is needed. Without a GPU the parts that a
processor can run do so at toy size, which tests the check itself.
"""
