"""What a GPU must show before days of it are spent: `make gpu-check`.

Needs torch and the libraries of the training process, neither DVC nor Sacred. On a GPU it takes at
most ten minutes and writes the table of docs/gpu.md; on a CPU it runs at toy size, to test itself.
"""
