"""How a method's hyperparameters were chosen: a compulsory word, because a gain may exist under one rule only."""

from __future__ import annotations

from ..exceptions import DataError

__all__ = ["SELECTION_RULES", "check_selection"]

SELECTION_RULES = (
    "none",
    "train-environment validation",
    "leave-one-environment-out",
    "group-labelled validation",
    "class-balanced validation",
    "oracle (test)",
)


def check_selection(rule: str | None) -> str | None:
    """One of ``SELECTION_RULES``, or None when it is not told.

    Parameters
    ----------
    rule : str or None
        "none" means that nothing was chosen; None that nobody says how.

    Returns
    -------
    str or None
        ``rule``.

    Raises
    ------
    DataError
        Other text.

    Examples
    --------
    >>> check_selection("oracle (test)")
    'oracle (test)'
    """
    if rule is not None and rule not in SELECTION_RULES:
        raise DataError(
            f"Got selection={rule!r}, but expected one of {', '.join(map(repr, SELECTION_RULES))}. Name what chose the "
            "hyperparameters; 'oracle (test)' when the test rows did."
        )
    return rule
