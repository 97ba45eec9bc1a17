"""How many weights a rule may have, from all down to one."""

from __future__ import annotations

__all__ = ["supports"]

FINE = 6  # from here on every number is tried


def supports(d: int) -> list[int]:
    """Numbers of weights that rules are cut down to: a third goes at a time, at the end one weight.

    Parameters
    ----------
    d : int
        Inputs.

    Returns
    -------
    list of int
        From ``d`` down to 1; ``s`` is followed by ``floor(2 s / 3)`` above 6, and by ``s - 1`` up to there.

    Notes
    -----
    Steps towards zero of an L1 penalty do not make rows sparse once they are rescaled after every step; cutting does,
    and accuracy rises with it. The sequence is this library's own.

    Examples
    --------
    >>> supports(30)
    [30, 20, 13, 8, 5, 4, 3, 2, 1]
    """
    sequence = [d]
    while sequence[-1] > 1:
        sequence.append(2 * sequence[-1] // 3 if sequence[-1] > FINE else sequence[-1] - 1)
    return sequence
