"""The lines of a GPIO chip."""

from collections.abc import Sequence


def users_of_lines(chip: str, lines: Sequence[str]) -> dict[str, str]:
    """Those of `lines`, names or offsets, that are in use -> by which program.

    Raises:
        OSError: the chip or a line does not exist, or must not be used.
        ValueError: the chip has not so many lines.
    """
    import gpiod

    with gpiod.Chip(chip) as opened:
        infos = {line: opened.get_line_info(line) for line in lines}
    return {line: info.consumer or "the kernel" for line, info in infos.items() if info.used}
