"""What a rank is as a process: its peers, its device, its stop signals, and what it leaves on
the disk.
"""
