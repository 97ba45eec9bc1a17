"""Reductions over torch.distributed; a process group is never created here."""
