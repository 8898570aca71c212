"""The roles that tokens have: their names, and the numbers that stand for them in a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from caft_lens._support.errors import BadArgument, nearest

SPECIAL, SYSTEM, USER, ASSISTANT, TEXT = range(5)
ROLES: dict[str, int] = {"special": SPECIAL, "system": SYSTEM, "user": USER, "assistant": ASSISTANT, "text": TEXT}


def role_names(roles: Sequence[str] | None) -> list[str] | None:
    """Names of roles as a list, where a single one may be given as it is; `None`, for all, stays `None`.

    Example:
        >>> role_names("user"), role_names(("user", "assistant")), role_names(None)
        (['user'], ['user', 'assistant'], None)
    """
    return [roles] if isinstance(roles, str) else None if roles is None else list(roles)


def check_role_names(names: Sequence[str], valid: Mapping[str, int]) -> list[int]:
    """Role numbers of role names.

    Raises:
        BadArgument: For a name that is none, naming the nearest.
    """
    names = role_names(names) or []
    for name in names:
        if name not in valid:
            raise BadArgument(f'Unknown role "{name}".{nearest(name, valid)}')
    return [valid[name] for name in names]
