"""SmoothInv, the denoisers that it may use, and the command that trains them.

Nothing is imported here: the command line lists the command without torch.
"""
